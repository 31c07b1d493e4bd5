# Two commands do it all on a fresh Debian 12, as root: `make demo` and `make test`.
# They install what they need: Debian packages, and virtual environments beside this file.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Releases of Octavia whose controller drives the agent in tests/conformance; 19 and 3, the newest and the
# last that speaks API 0.5 alone and has UDP, run everything, the others what differs between them.
RELEASES := 19 14 10 3 2
DIFFERING := agent certificates heartbeats legacy listeners lvs_text pairs policy provider_models \
    rendered_texts tls

# What runs the agent, what its demo uses, and what only its tests do.
DEMO_PACKAGES := haproxy nftables udhcpc iproute2 curl procps ca-certificates python3 python3-venv
TEST_PACKAGES := $(DEMO_PACKAGES) keepalived dnsmasq-base iputils-ping openssl git \
    mmdebstrap systemd-container debian-archive-keyring patchelf util-linux
# What emulates a machine, and what unpacks its kernel.
VM_PACKAGES := qemu-system-x86 lz4

.PHONY: help
help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: $(VENV)/demo  ## Show the agent at work: plug, push, balance, heartbeats (KEEP=1: stay until Ctrl-C)
	@$(BIN)/python -m lab.demo $(if $(KEEP),--keep)

.PHONY: test
test: lint unit fuzz-brief integration systemd  ## Everything: style, types, import rules, all tests
	@# Most of their time is waiting for one another's timeouts: two releases at once. What fails in
	@# one leaves the others to be seen.
	$(MAKE) -j2 -k --output-sync=target conformance

.PHONY: lint
lint: $(VENV)/test  ## Style, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: unit
unit: $(VENV)/test  ## What needs no root
	$(BIN)/python -m pytest tests/unit

.PHONY: integration
integration: $(VENV)/test  ## The agent with real haproxy, namespaces, TLS
	@# Much of their time is waiting: two processes at once, which take file after file.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/lab tests/integration

.PHONY: fuzz
fuzz: $(VENV)/test  ## The parser, the policy and every URL for ten minutes (FUZZ_SEED=n: again)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(BIN)/python -m pytest tests/fuzz

.PHONY: fuzz-brief
fuzz-brief: $(VENV)/test  ## The same for half a minute, from one seed
	@# What fails here is the change at hand. Finding what nobody knows is what `make fuzz` is for.
	FUZZ_SECONDS=30 FUZZ_SEED=$${FUZZ_SEED:-1} $(BIN)/python -m pytest tests/fuzz

.PHONY: systemd
systemd: $(VENV)/test  ## The installed wheel in a booted systemd
	$(BIN)/python -m pytest tests/systemd

.PHONY: test-vm
test-vm: $(VENV)/test  ## UDP and SCTP listeners, on an emulated machine whose kernel has IPVS
	@tools/install-packages $(VM_PACKAGES)
	$(BIN)/python -m pytest tests/vm

.PHONY: conformance
conformance: $(RELEASES:%=conformance-%) conformance-10-0.5  ## The agent under the controller's own code

.PHONY: $(RELEASES:%=conformance-%)
$(RELEASES:%=conformance-%): conformance-%: $(VENV)/test .venv-octavia-%/ready
	$(RUN_CONFORMANCE) $(CONFORMANCE_TESTS)

# Release 10 can still speak API 0.5; its laboratory is the same.
.PHONY: conformance-10-0.5
conformance-10-0.5: $(VENV)/test .venv-octavia-10/ready | conformance-10
	$(RUN_CONFORMANCE) --api 0.5 $(CONFORMANCE_TESTS)

conformance-10-0.5: RELEASE := 10
$(foreach release,$(RELEASES),$(eval conformance-$(release): RELEASE := $(release)))
RUN_CONFORMANCE = AMPHORA_AGENT=$(CURDIR)/$(BIN)/amphora-agent \
    .venv-octavia-$(RELEASE)/bin/python -m pytest -c tests/conformance/pytest.ini --rootdir=.
CONFORMANCE_TESTS := tests/conformance
conformance-14 conformance-10 conformance-10-0.5 conformance-2: \
    CONFORMANCE_TESTS := $(DIFFERING:%=tests/conformance/test_%.py)

.PHONY: openapi
openapi: $(VENV)/demo  ## Write docs/openapi.json, the document of API 2.0, anew
	$(BIN)/python -m amphora_agent.api.declarative.openapi > docs/openapi.json

.PHONY: bench
bench: $(VENV)/test  ## Time and memory, beside the floor of haproxy alone
	$(BIN)/python -m benchmarks

.PHONY: clean
clean:  ## Remove what make has made here
	rm -rf $(VENV) .venv-octavia-* .cache build *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/demo: pyproject.toml setup.py
	@tools/install-packages $(DEMO_PACKAGES)
	@tools/make-venv "$(PYTHON)" $(VENV) -e .
	@touch $@

$(VENV)/test: pyproject.toml setup.py
	@tools/install-packages $(TEST_PACKAGES)
	@tools/make-venv "$(PYTHON)" $(VENV) -e '.[test]'
	@touch $(VENV)/demo $@

.venv-octavia-%/ready: tests/conformance/requirements-%.txt
	@tools/make-venv "$(PYTHON)" .venv-octavia-$* --no-deps -r $<
	@touch $@
