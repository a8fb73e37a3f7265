# What people and CI type. `make` alone lists the targets.
#
# Tests use the dev profile, so that CI builds the workspace once; only the lab and the bench use release.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
RINGMESH := $(TARGET)/release/ringmesh
MEMBER := $(TARGET)/member/ringmesh-member

HOSTS ?= 5
CONTAINERS ?= 4
FUZZ_SECONDS ?= 10
# Options of bench-mesh, such as "--kills 4 --skip corosync".
BENCH_MESH ?=
# Options of bench-health, such as "--window 60".
BENCH_HEALTH ?=
# Options of bench-store, such as "--rounds 2".
BENCH_STORE ?=
SOAK ?= 4000
ROUNDS ?= 20
SEEDS ?= 2000
FIRST_SEED ?= 1000

# Root for namespaces, mounts and packages; empty when we are root already.
ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# For the build of raft-proto, which will have protoc; our own messages are compiled without it.
BUILD_PACKAGES := protobuf-compiler
# What is needed besides cargo: Debian's package names. busybox-static is the root file system of the lab's containers.
LAB_PACKAGES := busybox-static iproute2
# The other runtimes that are tested; g++ builds libFuzzer.
TEST_PACKAGES := crun runc podman docker.io etcd-client python3-etcd3 g++

CARGO_DENY_VERSION := 0.20.2

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z -]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z -]*\):.*## \(.*\)/  make \1: \2/p' Makefile

# --- build ---

.PHONY: build
build: need-cargo ## all crates, dev profile
	$(CARGO) build --workspace --all-targets

.PHONY: release
release: need-cargo member ## the binary ringmesh, release profile, and ringmesh-member beside it
	$(CARGO) build --release -p ringmesh-cli --bin ringmesh
	cp $(MEMBER) $(dir $(RINGMESH))

# Alone: neither its profile nor its features are those of a build of the workspace.
.PHONY: member
member: need-cargo ## the program ringmesh-member, for containers that have a member inside
	$(CARGO) build --locked --profile member -p ringmesh-member --features program

# --- lab ---

.PHONY: lab
lab: install-lab release ## a cluster of HOSTS=5 hosts with CONTAINERS=4 containers each, on this machine
	$(ROOT) $(RINGMESH) lab up --hosts $(HOSTS) --containers $(CONTAINERS)
	@echo; $(ROOT) $(RINGMESH) host list
	@echo; $(ROOT) $(RINGMESH) ring show
	@echo; $(ROOT) $(RINGMESH) service list
	@echo
	@echo "Try next:"
	@echo "  alias ringmesh='$(if $(ROOT),$(ROOT) )$(RINGMESH)'"
	@echo "  ringmesh event watch                  # in a second terminal"
	@echo "  ringmesh lab fault cut-uplink h2 a    # degraded, never down"
	@echo "  ringmesh ring show"
	@echo "  ringmesh lab fault heal h2"
	@echo "  ringmesh lab fault kill h3            # an agent dies, its containers run on"
	@echo "  ringmesh host why h3                  # who says that it is down, and on what evidence"
	@echo "  ringmesh lab fault kill-service h1 h1-c1"
	@echo "  ringmesh container restart h1/h1-c1   # repair by order; ringmesh operation list says what was done"
	@echo "  ringmesh store status                 # who holds the replicated configuration, and why"
	@echo "  make lab-down                         # leaves nothing behind"

.PHONY: lab-down
lab-down: ## tears down all that make lab made
	@[ -x $(RINGMESH) ] || { echo "make: $(RINGMESH) is not built, so there is no lab of this tree" >&2; exit 1; }
	$(ROOT) $(RINGMESH) lab down

# --- tests ---

.PHONY: test
test: ## everything that CI runs
	@for step in install-lab install-test lint test-unit test-root deny fuzz; do \
		started=$$SECONDS; $(MAKE) $$step; echo "make: $$step passed in $$((SECONDS - started)) s"; done

.PHONY: fmt
fmt: need-cargo ## formats all code
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path agent/fuzz/Cargo.toml

.PHONY: lint
lint: need-cargo ## format and clippy, warnings denied
	@{ $(CARGO) fmt --version && $(CARGO) clippy --version; } >/dev/null 2>&1 || rustup component add rustfmt clippy
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path agent/fuzz/Cargo.toml --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --profile member -p ringmesh-member --features program -- -D warnings

.PHONY: test-unit
test-unit: need-cargo ## unit, property and architecture tests; no privilege needed
	$(CARGO) test --locked --workspace

# Root through the runner, not around cargo: nothing in the target directory comes to belong to root. No doctests:
# there an `ignore` means that it is not to be compiled.
.PHONY: test-root
test-root: need-cargo etcd-peer ## tests of namespaces, containers and the lab, one at a time; needs root
	$(CARGO) test --locked --workspace --lib --bins --tests \
		$(if $(ROOT),--config "target.'cfg(unix)'.runner='$(ROOT) -E'") -- --ignored --test-threads=1

# One that is broken off leaves its lab: the next one, or `ringmesh lab down --name soak`, takes it down.
.PHONY: soak
soak: need-cargo install-lab ## SOAK=4000 real containers on one host, some of them killed in each of ROUNDS=20; needs root
	RINGMESH_SOAK=$(SOAK) RINGMESH_SOAK_ROUNDS=$(ROUNDS) $(CARGO) test --locked -p ringmesh-cli --test soak_root \
		$(if $(ROOT),--config "target.'cfg(unix)'.runner='$(ROOT) -E'") -- --ignored --nocapture

.PHONY: deny
deny: need-cargo cargo-deny ## licences, bans and sources of all dependencies
	$(CARGO) fetch --locked --target x86_64-unknown-linux-gnu
	$(CARGO) deny --offline --locked check --hide-inclusion-graph licenses bans sources

.PHONY: advisories
advisories: need-cargo cargo-deny ## known vulnerabilities of dependencies; fetches the advisory database
	$(CARGO) deny --locked check --hide-inclusion-graph advisories

.PHONY: fuzz
fuzz: need-cargo ## each fuzz target for FUZZ_SECONDS=10
	FUZZ_SECONDS=$(FUZZ_SECONDS) agent/fuzz/run

# What the benches compare with is unpacked and not installed: Debian's packages would start daemons. Libraries that are
# not installed come with corosync; those in /lib go below /usr, of which /lib is a part.
BENCH := $(TARGET)/bench

# What the store is compared with. Debian's package would start a daemon with each boot.
.PHONY: etcd-peer
etcd-peer:
	@[ -x $(BENCH)/usr/bin/etcd ] || [ -x /usr/bin/etcd ] || { mkdir -p $(BENCH)/etcd; cd $(BENCH)/etcd; \
		apt-get download -qq -o APT::Sandbox::User= etcd-server && dpkg-deb -x etcd-server_*.deb .. && rm -r $(BENCH)/etcd; } \
		|| { echo "make: cannot fetch Debian's package etcd-server" >&2; exit 1; }

.PHONY: bench-peers
bench-peers:
	@mkdir -p $(BENCH)/deb; cd $(BENCH); lacking=(); \
	for package in serf prometheus prometheus-blackbox-exporter; do [ -x usr/bin/$$package ] || lacking+=("$$package"); done; \
	[ -x usr/bin/etcd ] || lacking+=(etcd-server); \
	[ -x usr/sbin/corosync ] || lacking+=($$({ apt-get install -s --no-install-recommends corosync 2>/dev/null || :; } \
		| awk '$$1 == "Inst" && $$3 !~ /^\[/ { print $$2 }')); \
	for package in "$${lacking[@]}"; do \
		{ (cd deb && apt-get download -qq -o APT::Sandbox::User= "$$package") && dpkg-deb -x deb/"$$package"_*.deb .; } \
			|| echo "make: cannot fetch Debian's package $$package" >&2; \
	done; \
	if [ -d lib ]; then mkdir -p usr/lib && cp -a lib/. usr/lib/ && rm -r lib; fi; \
	rm -r deb; \
	for program in bin/serf bin/etcd sbin/corosync bin/prometheus bin/prometheus-blackbox-exporter; do [ -x usr/$$program ] || [ -x /usr/$$program ] \
		|| echo "make: there is no $${program#*/}; nothing is compared with it" >&2; done

.PHONY: bench-agent
bench-agent: install-lab release bench-peers ## figures of the agent in the lab, as in docs/benchmarks.md; needs root
	$(CARGO) build --release -p ringmesh-cli --example bench-agent
	$(ROOT) $(TARGET)/release/examples/bench-agent --serf $(BENCH)/usr/bin/serf

.PHONY: bench-mesh
bench-mesh: install-lab release bench-peers ## the mesh beside serf and corosync, as in docs/benchmarks.md; needs root
	$(CARGO) build --release -p ringmesh-cli --example bench-mesh
	$(ROOT) $(TARGET)/release/examples/bench-mesh --unpacked $(BENCH) $(BENCH_MESH)

.PHONY: bench-health
bench-health: install-lab release bench-peers ## 32,000 containers on one host, as in docs/benchmarks.md; needs root
	$(CARGO) build --release -p ringmesh-cli --example bench-health
	$(ROOT) $(TARGET)/release/examples/bench-health --unpacked $(BENCH) $(BENCH_HEALTH)

.PHONY: bench-store
bench-store: release bench-peers ## the store beside etcd, as in docs/benchmarks.md
	$(CARGO) build --release -p ringmesh-cli --example bench-store
	$(TARGET)/release/examples/bench-store --etcd $$(command -v $(BENCH)/usr/bin/etcd || command -v etcd) $(BENCH_STORE)

# --- simulator ---

SIM := $(TARGET)/sim/ringmesh-sim

.PHONY: sim
sim: need-cargo ## the binary ringmesh-sim, optimised for speed
	$(CARGO) build --profile sim -p ringmesh-simulator

.PHONY: sim-soak
sim-soak: sim ## SEEDS=2000 runs of random faults from FIRST_SEED=1000 on, over all cores
	$(SIM) sweep --random --seed $(FIRST_SEED) --seeds $(SEEDS)

.PHONY: bench-sim
bench-sim: sim ## how fast the simulator is, as in docs/benchmarks.md
	@for hosts in 50 200 500; do echo "== $$hosts hosts"; \
		/usr/bin/env time -f "%U s of processor time, %M kB" $(SIM) run --hosts $$hosts --for 60s --seed 1 \
			| sed -n '3,5p'; done

# --- housekeeping ---

.PHONY: clean
clean: ## removes what was built
	$(CARGO) clean
	rm -rf agent/fuzz/target agent/fuzz/artifacts

# No package starts a daemon: the policy is asked before each start, and docker.io's are not to be started at the next boot
# either.
.PHONY: install-lab install-test
install-lab install-test: install-%: ## installs the Debian packages that the lab, or its tests, lack
	@lacking=(); \
	for package in $(if $(filter lab,$*),$(LAB_PACKAGES),$(TEST_PACKAGES)); do \
		[ "$$(dpkg-query -W -f='$${db:Status-Status}' "$$package" 2>/dev/null)" = installed ] || lacking+=("$$package"); \
	done; \
	[ "$${#lacking[@]}" -eq 0 ] && exit 0; \
	command -v apt-get >/dev/null || { \
		echo "make: cannot see or install $${lacking[*]}: this is not Debian; install what corresponds by hand," \
			"then run the other targets" >&2; exit 1; }; \
	echo "make: installing $${lacking[*]}"; \
	$(ROOT) apt-get update -qq; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e "$$policy" ]; then \
		printf '#!/bin/sh\nexit 101\n' | $(ROOT) tee "$$policy" >/dev/null; $(ROOT) chmod +x "$$policy"; \
		trap '$(ROOT) rm -f "$$policy"' EXIT; \
	fi; \
	$(ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${lacking[@]}"; \
	case " $${lacking[*]} " in *" docker.io "*) \
		$(ROOT) systemctl disable docker.service docker.socket containerd.service 2>/dev/null || true ;; esac

.PHONY: need-cargo
need-cargo:
	@command -v $(CARGO) >/dev/null || { \
		echo "make: no $(CARGO) in PATH; install Rust $$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)" \
			"or later with rustup, then open a new shell" >&2; exit 1; }
	@command -v protoc >/dev/null || { echo "make: installing $(BUILD_PACKAGES)"; \
		$(ROOT) apt-get update -qq && $(ROOT) apt-get install -y -qq $(BUILD_PACKAGES) >/dev/null; }

# Unoptimised: builds in a minute rather than ten, and the check takes two seconds either way.
.PHONY: cargo-deny
cargo-deny:
	@$(CARGO) deny --version 2>/dev/null | grep -q ' $(CARGO_DENY_VERSION)$$' || { \
		echo "make: installing cargo-deny $(CARGO_DENY_VERSION)"; \
		env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 \
			$(CARGO) install cargo-deny --version $(CARGO_DENY_VERSION) --locked --debug --force; }
