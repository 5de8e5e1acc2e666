#!/bin/bash
# pid 1 of a node: node-init.sh NAME ADDRESS POD_CIDR. Runs in the node's root file system and its namespaces; the
# folder /etc/culvert-node holds what the kit wrote for it. Makes the views that a machine has, then sees to it that
# containerd, kubelet and kube-proxy run: one that ends is started again, unless /run/stopped/<name> is there.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C
name=$1 address=$2 pod_cidr=$3
given=/etc/culvert-node

make_views() {
  mount -t tmpfs -o mode=755 run /run
  mount -t tmpfs tmp /tmp
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  mount -t bpf bpf /sys/fs/bpf
  mount --make-rshared /
  # Nothing but groups lives in the root, as on a machine.
  mkdir -p /sys/fs/cgroup/system.slice /run/stopped
  echo $$ >/sys/fs/cgroup/system.slice/cgroup.procs
}

# The kubelet sets these, and they are the whole machine's: it gets files of its own to write to.
hide_sysctls() {
  mkdir -p /run/sysctl
  local entry file
  for entry in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctl/$(tr / _ <<<"${entry%=*}")
    echo "${entry#*=}" >"$file"
    if [ -e "/proc/sys/${entry%=*}" ]; then mount --bind "$file" "/proc/sys/${entry%=*}"; fi
  done
}

set_up_network() {
  until [ -e /sys/class/net/eth0 ]; do sleep 0.02; done
  ip link set lo up
  ip addr add "$address/24" dev eth0
  ip link set eth0 up
  ip route add default via "$(cat $given/gateway)"
  # Its own range but for the pods that are there: an address without a pod is refused, not lost on the uplink.
  ip route add unreachable "$pod_cidr" metric 4096
  while read -r cidr via; do ip route add "$cidr" via "$via"; done <$given/routes
  sysctl -qw net.ipv4.ip_forward=1 net.ipv4.tcp_congestion_control=reno
}

# keep NAME WORDS...: runs it for as long as the node lives.
keep() {
  local part=$1
  shift
  while :; do
    if [ -e "/run/stopped/$part" ]; then
      sleep 0.1
      continue
    fi
    "$@" >>"/var/log/$part.log" 2>&1 &
    echo $! >"/run/$part.pid"
    wait $! || true
    sleep 0.2
  done
}

make_views
hide_sysctls
set_up_network
hostname "$name"
echo "127.0.0.1 localhost $name" >/etc/hosts
md5sum <<<"$name" | cut -c1-32 >/etc/machine-id
keep containerd containerd --config $given/containerd.toml --log-level warn &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done
for image in /opt/images/*.tar; do
  if [ -f "$image" ]; then ctr -n k8s.io images import "$image" >>/var/log/images.log 2>&1; fi
done
keep kubelet kubelet --config=$given/kubelet.json --kubeconfig=$given/kubelet.kubeconfig \
  --hostname-override="$name" --node-ip="$address" --root-dir=/var/lib/kubelet --v=1 &
keep kube-proxy kube-proxy --kubeconfig=$given/kube-proxy.kubeconfig --hostname-override="$name" \
  --proxy-mode=nftables --cluster-cidr="$(cat $given/cluster-cidr)" --conntrack-max-per-core=0 &
echo "node up"
while :; do
  sleep 3600 &
  wait $!
done
