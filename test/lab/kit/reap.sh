#!/bin/sh
# Ends a lab: reap.sh CGROUP FOLDER. Waits until stdin ends, which it does however the lab's owner ends, SIGKILL
# included; then kills every process of the lab by its cgroup (their namespaces, veths, mounts and pins go with
# them), and removes the cgroups and the folder. Holds a lock on the folder meanwhile: a lab without one is a leftover.
cgroup=$1 folder=$2
exec 9>"$folder/lock"
flock -n 9 || { echo "reap: $folder is in use" >&2; exit 1; }
echo ready
cat >/dev/null
[ -d "$cgroup" ] && echo 1 >"$cgroup/cgroup.kill"
tries=0
while [ -d "$cgroup" ] && ! find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null; do
  tries=$((tries + 1))
  [ $tries -gt 200 ] && { echo "reap: $cgroup stays: $(cat "$cgroup"/cgroup.events)" >&2; exit 1; }
  sleep 0.05
done
[ -n "$CULVERT_LAB_KEEP_LOGS" ] && exit 0
rm -rf "$folder"
