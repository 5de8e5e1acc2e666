#!/bin/bash
# node-enter.sh LOWER FOLDER NAME ADDRESS POD_CIDR: builds a node's file system out of the shared root file system and
# a folder of its own, makes it the root of this mount namespace and becomes the node's pid 1. Runs in the node's
# namespaces, which no mount leaves.
set -eu
lower=$1 folder=$2
shift 2
root=$folder/root
mkdir -p "$root" "$folder"/{upper,work,containerd,kubelet,log}
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$folder/upper,workdir=$folder/work" "$root"
# An overlay can't be the upper layer of another: containers get the real file system below.
mkdir -p "$root"/{var/lib/containerd,var/lib/kubelet,var/log,opt/images,etc/culvert-node}
mount --bind "$folder/containerd" "$root/var/lib/containerd"
mount --bind "$folder/kubelet" "$root/var/lib/kubelet"
mount --bind "$folder/log" "$root/var/log"
mount --bind "$folder/given" "$root/etc/culvert-node"
mount --bind "$folder/images" "$root/opt/images"
# The kit's own programs, under the names that they are called by.
for program in "$folder"/given/bin/*; do
  touch "$root/usr/local/bin/${program##*/}"
  mount --bind "$(readlink -f "$program")" "$root/usr/local/bin/${program##*/}"
done
for part in kubelet kube-proxy kubectl; do ln -sf multi "$root/usr/local/bin/$part"; done
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
cd "$root"
mkdir -p oldroot
pivot_root . oldroot
cd /
umount -l /oldroot
exec /bin/bash /etc/culvert-node/node-init.sh "$@"
