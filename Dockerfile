# Culvert's image: docker build -t REGISTRY/culvert:TAG .
#
# The base is for building only: the image starts from nothing and has the pinned node, the shared libraries that it,
# libbpf and our addons are linked to, and our files. No shell, no package manager, no compiler.
# The newest tag that is known to exist; whoever can ask a registry pins its digest: --build-arg BASE=…@sha256:…
ARG BASE=docker.io/library/debian:bookworm-20250520-slim

FROM ${BASE} AS build
# The libraries are named so that they are the archive's newest, not the base's.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates g++ gcc libc6-dev make npm python3 \
      libatomic1 libbpf1 libc6 libelf1 libgcc-s1 libstdc++6 zlib1g \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /culvert

# As `make setup` does: Debian's npm brings the pinned node and npm, which build the native parts.
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts --no-audit --no-fund \
 && ln -s /culvert/node_modules/node-linux-*/bin/node /usr/local/bin/node \
 && ln -s /culvert/node_modules/node-linux-* /node
RUN npm_config_nodedir=/node node node_modules/npm/bin/npm-cli.js rebuild ffi-napi @2060.io/ref-napi
COPY native/bpf/culvert.h native/bpf/
COPY native/hot/binding.gyp native/hot/*.c native/hot/*.h native/hot/
RUN npm_config_nodedir=/node node node_modules/npm/node_modules/node-gyp/bin/node-gyp.js rebuild -C native/hot \
 && node node_modules/npm/bin/npm-cli.js prune --omit=dev --ignore-scripts

# The file system below: node, what the loader finds for it and for our libraries, their licences, two users.
RUN set -eu; mkdir /out; cd /out; \
    mkdir -p usr/bin usr/local/bin etc proc sys dev run tmp usr/share/doc; chmod 1777 tmp; \
    cp /node/bin/node usr/local/bin/node; \
    mkdir -p usr/share/doc/node; cp /node/LICENSE usr/share/doc/node/; \
    printf '#!/usr/local/bin/node\nimport "/opt/culvert/daemon/cli/culvert.js";\n' >usr/local/bin/culvert; \
    chmod 755 usr/local/bin/culvert; \
    ln -s usr/lib lib; ln -s usr/lib64 lib64; mkdir -p usr/lib usr/lib64; \
    libbpf=$(ldconfig -p | sed -n 's/.*libbpf\.so\.1 .*=> //p' | head -n 1); \
    find /culvert/native /culvert/node_modules -path '*/build/Release/*.node' >/tmp/linked; echo /node/bin/node >>/tmp/linked; echo "$libbpf" >>/tmp/linked; \
    { echo "$libbpf"; xargs ldd </tmp/linked | sed -n 's/^.*[[:space:]]\(\/[^ ]*\) (0x.*$/\1/p'; } | sort -u >/tmp/libraries; \
    while read -r file; do \
      to=usr${file#/usr}; mkdir -p "${to%/*}"; cp -L "$file" "$to"; \
      name=$(dpkg -S "$file" "$(readlink -f "$file")" 2>/dev/null | sed -n '1s/[:,].*//p'); \
      mkdir -p "usr/share/doc/$name"; cp -L "/usr/share/doc/$name/copyright" "usr/share/doc/$name/"; \
    done </tmp/libraries; \
    cp -L /usr/share/common-licenses/GPL-2 /usr/share/common-licenses/GPL-3 /usr/share/common-licenses/LGPL-2.1 usr/share/doc/; \
    printf 'root:x:0:0::/:/sbin/nologin\nculvert:x:65532:65532::/:/sbin/nologin\n' >etc/passwd; \
    printf 'root:x:0:\nculvert:x:65532:\n' >etc/group; \
    printf 'hosts: files dns\n' >etc/nsswitch.conf

# The load of the benchmark job, and what runs it: an image of its own, with the same node.
FROM build AS load
COPY native/image.ts native/
COPY test/bench/load.c test/bench/
COPY test/kube/bench test/kube/bench
RUN node --disable-warning=ExperimentalWarning native/image.ts /ours/opt/culvert test/kube/bench \
 && printf '{"type":"module"}\n' >/ours/opt/culvert/package.json \
 && mkdir -p /ours/usr/local/bin && gcc -O2 -Wall -Wextra -o /ours/usr/local/bin/load test/bench/load.c
FROM scratch AS bench
COPY --from=build /out /
COPY --from=load /ours /
ENV PATH=/usr/local/bin
USER 65532:65532
ENTRYPOINT ["node", "/opt/culvert/test/kube/bench/main.js"]

FROM build AS ours
COPY LICENSE ./
COPY native/bpf/prebuilt native/bpf/prebuilt
COPY native/image.ts native/
COPY native/hot/*.ts native/hot/
COPY daemon daemon
RUN node --disable-warning=ExperimentalWarning native/image.ts /ours/opt/culvert

FROM scratch AS culvert
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="culvert" \
      org.opencontainers.image.description="Mutual TLS and identity for every pod of a labelled namespace: the daemon, the cluster CA and the command line" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# Two layers: an upgrade that brings the same node pulls the second one only.
COPY --from=build /out /
COPY --from=ours /ours /
# As daemon/cli/culvert has them, and for its reasons. A compile cache saves nothing here: there are no types to strip.
ENV PATH=/usr/local/bin MALLOC_ARENA_MAX=2 \
    NODE_OPTIONS="--disable-warning=ExperimentalWarning --max-semi-space-size=4"
# The daemon needs root and says so in its DaemonSet; culvert-ca and the command line do not.
USER 65532:65532
EXPOSE 15020 15021
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["node", "-e", "fetch('http://127.0.0.1:15021/healthz').then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["culvert"]
CMD ["--help"]
