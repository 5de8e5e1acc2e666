#!/bin/bash
# `make kind`: what `make cluster` shows, for people with Docker: two nodes in containers, our image in them, the base
# applied, a demo namespace labelled, the benchmark job run. KEEP=1 leaves the cluster up.
set -euo pipefail
cd -- "$(dirname -- "$0")/../.."
name=culvert
bench=manifests/overlays/bench

for tool in docker kind kubectl; do
  command -v "$tool" >/dev/null || { echo "kind: $tool is missing; make cluster needs none of docker, kind, kubectl" >&2; exit 1; }
done
if [[ $'\n'$(kind get clusters 2>/dev/null)$'\n' == *$'\n'"$name"$'\n'* ]]; then
  echo "kind: there is a cluster $name already; kind delete cluster --name $name ends it" >&2
  exit 1
fi
kubectl() { command kubectl --context "kind-$name" "$@"; }
step() { printf '\n== %s\n' "$1"; }

step 'images'
docker build --tag localhost/culvert:dev .
docker build --target bench --tag localhost/culvert-bench:dev .

step 'a cluster of two nodes'
[ -n "${KEEP:-}" ] || trap 'kind delete cluster --name "$name"' EXIT
kind create cluster --name "$name" --wait 2m --config - <<'YAML'
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
  - role: worker
  - role: worker
YAML
kind load docker-image --name "$name" localhost/culvert:dev localhost/culvert-bench:dev

step 'culvert'
kubectl apply -k manifests/overlays/kind
kubectl -n culvert-system rollout status deployment/culvert-ca --timeout=2m
kubectl -n culvert-system rollout status daemonset/culvert --timeout=2m

step 'a namespace joins the mesh'
kubectl create namespace demo
kubectl label namespace demo culvert.dev/mesh=enabled

step 'the benchmark, without the mesh and with it'
kubectl apply -k "$bench"
# 'wait' knows one condition only, and a job that fails never completes.
for ((i = 0; i < 450; i++)); do
  [ -z "$(kubectl -n culvert-bench get job/bench -o jsonpath='{.status.conditions}')" ] || break
  sleep 2
done
kubectl -n culvert-bench logs job/bench || true
kubectl -n culvert-bench wait --for=condition=complete job/bench --timeout=30s
[ -z "${KEEP:-}" ] || printf '\nkind delete cluster --name %s ends it\n' "$name"
