# Culvert. `make` shows what there is; everything installs what it needs first (as root, on Debian).
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

ARCH := $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,x64)
NODE := $(CURDIR)/node_modules/node-linux-$(ARCH)/bin/node
# The pinned node comes first for every script that a package runs.
export PATH := $(CURDIR)/node_modules/.bin:$(PATH):/usr/sbin:/sbin
LOGS := .stamp
JOBS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
# Inputs of each fuzz property in make soak.
SOAK_FUZZ ?= 200000
PEER_ZTUNNEL ?= $(HOME)/.cache/culvert/peers/ztunnel

# Debian packages, each with the reason that `make setup` gives.
PACKAGES := \
  make:'runs this file' \
  gcc:'builds native/hot, ffi-napi and the lab programs' \
  g++:'builds ffi-napi' \
  python3:'node-gyp is written in it' \
  libc6-dev:'headers' \
  libbpf-dev:'libbpf.so.1 at run time, its headers for make bpf' \
  libelf1:'libbpf reads ELF with it' \
  clang-19:'compiles native/bpf, to compare with the committed objects' \
  llvm-19:'strips them' \
  linux-libc-dev:'kernel headers' \
  bpftool:'looks at what is pinned and attached' \
  iproute2:'the lab: links, routes' \
  util-linux:'the lab: nsenter, flock' \
  nftables:'the lab: stand-in for kube-proxy' \
  tcpdump:'the lab: what is on the wire' \
  curl:'the lab: hints of make lab KEEP=1' \
  iperf3:'the lab: hints of make lab KEEP=1' \
  haproxy:'make bench: what we compare with' \
  openssl:'tests that forge certificates' \
  ca-certificates:'npm talks TLS'

# What a real Kubernetes without Docker needs on top (test/kube).
KUBE_PACKAGES := \
  debootstrap:'the root file system of its nodes; the base of the image' \
  buildah:'builds the image' \
  shellcheck:'checks the script of make kind' \
  $(if $(wildcard /usr/local/go/bin/go)$(shell command -v go),,golang-go:'builds Kubernetes; fetches a newer Go first')

UNIT := $(wildcard test/*.test.ts) $(filter-out $(wildcard test/lab/*.test.ts test/faults/*.test.ts \
  test/interop/*.test.ts test/kube/*.test.ts),$(wildcard test/*/*.test.ts test/*/*/*.test.ts))
LAB := $(wildcard test/lab/*.test.ts test/faults/*.test.ts)
INTEROP := $(wildcard test/interop/*.test.ts)
KUBE := $(wildcard test/kube/*.test.ts)
# Clusters at once: each mostly waits, and has 2.5 GB resident with its test.
KUBE_JOBS ?= 2
HOT := native/hot/build/Release/hot.node

# $(call reporters,run): what a person reads; what `make` reads after it: files that failed, figures, totals.
reporters = --test-reporter=spec --test-reporter-destination=stdout \
  --test-reporter=./test/support/record.ts --test-reporter-destination=$(LOGS)/run-$(1)

# $(call step,label,log name,command): one progress line; the output only when it fails.
define step
@mkdir -p $(LOGS); printf '  %-46s ' '$(1)'; started=$$(date +%s); \
if { $(3); } >$(LOGS)/$(2).log 2>&1 </dev/null; then echo "$$(($$(date +%s) - started)) s"; \
else echo 'FAILED'; tail -n 100 $(LOGS)/$(2).log >&2; exit 1; fi
endef

.PHONY: help
help: ## Show this
	@echo 'Culvert: mutual TLS for every pod of a labelled namespace. Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: packages $(HOT) ## Install what is missing: Debian packages, npm packages, native parts
	@test -x $(NODE) || { echo 'setup: the pinned node is missing; remove node_modules and run make setup again' >&2; exit 1; }

# $(call install,list): installs what is missing of a list of packages, and says why.
define install
@missing=(); \
for entry in $(1); do name=$${entry%%:*}; \
  [ "$$(dpkg-query -W -f='$${db:Status-Status}' $$name 2>/dev/null)" = installed ] || missing+=("$$name"); done; \
command -v npm >/dev/null || { echo '  nodejs, npm: to install the pinned ones'; missing+=(nodejs npm); }; \
[ $${#missing[@]} = 0 ] && exit 0; \
for entry in $(1); do for name in "$${missing[@]}"; do \
  [ "$${entry%%:*}" = "$$name" ] && echo "  $$name: $${entry#*:}"; done; done; \
[ "$$(id -u)" = 0 ] || { echo 'setup: installing these needs root: sudo make setup' >&2; exit 1; }; \
command -v apt-get >/dev/null || { echo 'setup: no apt-get here: install the above by hand' >&2; exit 1; }; \
$(MAKE) apt-install MISSING="$${missing[*]}"
endef

.PHONY: packages
packages:
	$(call install,$(PACKAGES))

.PHONY: kube-packages
kube-packages: packages
	$(call install,$(KUBE_PACKAGES))

.PHONY: apt-install
apt-install:
	$(call step,apt-get update,apt-update,apt-get -o DPkg::Lock::Timeout=300 update)
	$(call step,apt-get install,apt-install,DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $(MISSING))

# npm scripts run under the pinned node, which the first step brings; its package carries the headers for node-gyp.
node_modules/.culvert-installed: package.json package-lock.json .npmrc | packages
	$(call step,npm packages,npm-ci,npm ci --ignore-scripts --no-audit --no-fund)
	$(call step,ffi-napi (native),npm-rebuild,npm_config_nodedir=$(CURDIR)/node_modules/node-linux-$(ARCH) $(NODE) node_modules/npm/bin/npm-cli.js rebuild ffi-napi @2060.io/ref-napi)
	@# Debian's npm leaves this link out.
	@ln -sfn ../node-linux-$(ARCH)/bin/node node_modules/.bin/node
	@touch $@

$(HOT): $(wildcard native/hot/*.c native/hot/*.h native/hot/binding.gyp native/bpf/culvert.h) node_modules/.culvert-installed
	$(call step,native/hot,native-hot,npm_config_nodedir=$(CURDIR)/node_modules/node-linux-$(ARCH) $(NODE) node_modules/npm/node_modules/node-gyp/bin/node-gyp.js rebuild -C native/hot)
	@touch $@

.PHONY: lab
lab: setup ## The story: two nodes, a request before and after the label (KEEP=1: stays up to play with)
	@KEEP=$(KEEP) $(NODE) test/lab/story.ts

.PHONY: lab-down
lab-down: setup ## Remove what killed labs left behind (ALL=1: end living ones too)
	@$(NODE) test/lab/kit/sweep.ts $(if $(ALL),--all)

.PHONY: cluster
cluster: kube ## The story on a real Kubernetes, two nodes, no Docker (KEEP=1: stays up; the first time builds it: minutes)
	@KEEP=$(KEEP) $(NODE) test/kube/story.ts

.PHONY: cluster-down
cluster-down: setup ## Remove clusters that stayed up or were killed (ALL=1: end those of running tests too)
	@$(NODE) test/kube/kit/down.ts $(if $(ALL),--all)

.PHONY: image
image: setup kube-packages ## Build the image of the Dockerfile, without Docker; says where it is
	@$(NODE) test/kube/image/main.ts

.PHONY: kind
kind: ## With Docker and kind: a cluster, the image, the mesh, the benchmark (KEEP=1: stays up)
	@KEEP=$(KEEP) test/kube/kind.sh

# Kubernetes and its nodes' root file system, made once on a machine and kept outside the tree.
.PHONY: kube
kube: setup kube-packages
	@$(NODE) test/kube/kit/prepare.ts

.PHONY: lint
lint: setup ## Types, lint rules, format, and whether the committed BPF objects match their sources
	$(call step,types,tsc,$(NODE) node_modules/typescript/bin/tsc --noEmit)
	$(call step,lint,eslint,$(NODE) node_modules/eslint/bin/eslint.js .)
	$(call step,format,biome,biome format .)
	$(call step,BPF objects match their sources,bpf-check,$(MAKE) -C native/bpf check)

.PHONY: format
format: setup ## Format all TypeScript and JSON
	@biome format --write .

# Missing root, BPF, memory or disk fails here with its name, before any test; nothing is skipped.
.PHONY: preflight
preflight: setup kube-packages
	@$(NODE) test/kube/kit/prepare.ts check --tests

.PHONY: test
test: preflight lint ## All tests in short forms: units, lab, a real Kubernetes (built the first time)
	@rm -f $(LOGS)/run-*; outcome=0; \
	$(MAKE) test-lab || outcome=1; $(MAKE) test-kube || outcome=1; $(MAKE) totals; exit $$outcome

.PHONY: test-lab
test-lab: setup ## Unit tests, and tests in the lab's namespaces
	@mkdir -p $(LOGS); $(NODE) --test --test-concurrency=$(JOBS) $(TEST_FLAGS) $(call reporters,lab) $(UNIT) $(LAB) \
	|| $(MAKE) test-again RUN=lab

.PHONY: test-kube
test-kube: setup kube-packages ## Tests on a real Kubernetes; the first time it is built: minutes
	@$(NODE) test/kube/kit/prepare.ts --tests
	@$(NODE) test/kube/image/main.ts culvert bench
	@mkdir -p $(LOGS); $(NODE) --test --test-concurrency=$(KUBE_JOBS) $(TEST_FLAGS) $(call reporters,kube) $(KUBE) \
	|| $(MAKE) test-again RUN=kube

# A line for each run of tests since `make test` began, and one for all.
.PHONY: totals
totals: setup
	@$(NODE) test/support/totals.ts $$(ls -tr $(LOGS)/run-*)

# A file of the lab, or of Kubernetes, has real daemons, kernels' timers and two cores to share with another: one that
# failed runs once more, alone, and loudly. Whatever failed elsewhere stays failed.
.PHONY: test-again
test-again:
	@again=$$(sed -n 's/^failed //p' $(LOGS)/run-$(RUN) | sort -u); \
	if [ -z "$$again" ] || grep -qvE '^test/(lab|kube)/' <<<"$$again"; then exit 1; fi; \
	printf '\n*** FAILED ONCE, RUNNING AGAIN ALONE (each is a flake to be mended, or a defect):\n%s\n\n' "$$again"; \
	$(NODE) --test --test-concurrency=1 $(call reporters,$(RUN)-again) $$again

.PHONY: soak
soak: ## The same with every figure in full (CULVERT_LONG=1): about an hour; ends with a line for each
	@CULVERT_LONG=1 FUZZ_RUNS=$(SOAK_FUZZ) CULVERT_FUZZ=$(SOAK_FUZZ) $(MAKE) test; outcome=$$?; \
	printf '\nThe figures, as run (fuzz: $(SOAK_FUZZ) inputs for each property):\n'; sed -n 's/^figure //p' $(LOGS)/run-* | sort; exit $$outcome

.PHONY: bench
bench: setup ## Figures against no mesh, HAProxy and (PEER_ZTUNNEL=path) ztunnel
	@PEER_ZTUNNEL=$(wildcard $(PEER_ZTUNNEL)) $(NODE) test/bench/main.ts

.PHONY: interop
interop: setup ## Against a real ztunnel: make interop PEER_ZTUNNEL=path
	@test -x "$(PEER_ZTUNNEL)" || { echo 'interop: no ztunnel at "$(PEER_ZTUNNEL)": make interop PEER_ZTUNNEL=path' >&2; exit 1; }
	@test -n "$(INTEROP)" || { echo 'interop: there is no test in test/interop' >&2; exit 1; }
	@PEER_ZTUNNEL=$(abspath $(PEER_ZTUNNEL)) $(NODE) --test --test-reporter=spec --test-concurrency=1 $(INTEROP)

.PHONY: bpf
bpf: packages ## Rebuild the committed BPF objects
	@$(MAKE) -C native/bpf

.PHONY: clean
clean: ## Remove everything that was installed or built here
	rm -rf node_modules native/hot/build $(LOGS)
