# Two commands do it all on a fresh Debian 12, as root: `make demo` and `make test`.
# They install what they need: Debian packages, and virtual environments beside this file.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Releases of Octavia whose controller drives the agent in tests/conformance; 19 and 3, the newest and the
# last that speaks API 0.5 alone and has UDP, run everything, the others what differs between them.
RELEASES := 19 14 10 3 2
DIFFERING := agent certificates heartbeats legacy listeners lvs_text pairs policy provider_models \
    rendered_texts tasks tls vocabulary vrrp_text

# What runs the agent, what its demo uses, and what only its tests do.
DEMO_PACKAGES := haproxy nftables udhcpc iproute2 curl procps ca-certificates python3 python3-venv
TEST_PACKAGES := $(DEMO_PACKAGES) keepalived dnsmasq-base iputils-ping openssl git \
    mmdebstrap strace systemd-container debian-archive-keyring patchelf util-linux gcc libc6-dev
# What emulates a machine, and what unpacks its kernel.
VM_PACKAGES := qemu-system-x86 lz4

.PHONY: help
help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: $(VENV)/demo  ## Show the agent at work: plug, push, balance, heartbeats (KEEP=1: stay until Ctrl-C)
	@$(BIN)/python -m lab.demo $(if $(KEEP),--keep)

# The tests, so that both cores are busy: what mostly waits for timeouts, as conformance does, runs
# beside its like. What shares a laboratory stands in one list.
PARTS := lint unit --beside oldest --beside fuzz-brief --then integration --then systemd
CONFORMANCE := conformance-19 conformance-19-py3.13 \
    --beside conformance-10 conformance-10-0.5 conformance-2 \
    --beside conformance-3 conformance-14

# Tests that fail run once more, alone: docs/decisions/0034. With ONCE=1 they do not.
RUN_TESTS := tools/run_tests.py
UNIT := tests/unit tests/properties

.PHONY: test
test: $(VENV)/test  ## Everything: style, types, import rules, all tests (MORE=part: another at the end)
	@tools/run_parts.py $(PARTS) --then $(CONFORMANCE) $(if $(MORE),--beside $(MORE))

.PHONY: lint
lint: $(VENV)/test  ## Style, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: check
check: lint  ## What tells within 90 seconds whether a change is sound: lint, and the fast tests
	$(RUN_TESTS) check $(BIN)/python -q -n 2 tests/unit

.PHONY: unit
unit: $(VENV)/test  ## What needs no root: the fast tests, and properties of any values or kills
	$(RUN_TESTS) unit $(BIN)/python $(UNIT)

# Where a fault is injected by its number, the files of coverage would be effects, too.
COVERAGE_TESTS := $(UNIT) tests/integration --ignore=tests/integration/faults
.PHONY: coverage
coverage: export COVERAGE_DATA := $(CURDIR)/build/coverage/data
coverage: $(VENV)/test  ## Branch coverage, with that of processes (COVERAGE_TESTS=paths: of some, without the floor)
	@rm -rf build/coverage && mkdir -p build/coverage
	@# Tests that fail do not keep the report back.
	status=0; $(BIN)/python -m coverage run -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
	    $(COVERAGE_TESTS) || status=$$?; \
	$(BIN)/python -m coverage combine -q; \
	$(BIN)/python -m coverage html -q --fail-under=0 -d build/coverage/html; \
	$(BIN)/python -m coverage report \
	    $(if $(filter command environment,$(firstword $(origin COVERAGE_TESTS))),--fail-under=0); \
	exit $$status

.PHONY: oldest
oldest: .venv-oldest/ready  ## The same with the oldest libraries that pyproject.toml allows
	$(RUN_TESTS) oldest .venv-oldest/bin/python -q $(UNIT)

.PHONY: integration
integration: $(VENV)/test  ## The agent with real haproxy, namespaces, TLS
	@# Much of their time is waiting: two processes at once, which take file after file.
	FAULTS_SEED=$${FAULTS_SEED:-1} CHAOS_SEED=$${CHAOS_SEED:-1} $(RUN_TESTS) integration $(BIN)/python \
	    -n 2 --dist loadfile --no-loadscope-reorder tests/lab tests/integration

.PHONY: fuzz
fuzz: $(VENV)/test  ## The parsers, the policy, keepalived and every URL for ten minutes (FUZZ_SEED=n: again)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(BIN)/python -m pytest tests/fuzz

.PHONY: fuzz-brief
fuzz-brief: $(VENV)/test  ## The same for half a minute, from one seed
	@# What fails here is the change at hand. Finding what nobody knows is what `make fuzz` is for.
	FUZZ_SECONDS=30 FUZZ_SEED=$${FUZZ_SEED:-1} $(BIN)/python -m pytest tests/fuzz

.PHONY: faults
faults: $(VENV)/test  ## Every effect of every operation fails in every way, for hours (FAULTS_SECONDS=n: some)
	FAULTS_SECONDS=$${FAULTS_SECONDS:-0} $(BIN)/python -m pytest -n 2 --dist worksteal tests/integration/faults

.PHONY: systemd
systemd: $(VENV)/test  ## The installed wheel in a booted systemd
	$(RUN_TESTS) systemd $(BIN)/python tests/systemd

.PHONY: test-vm
test-vm: $(VENV)/test  ## UDP and SCTP listeners, on an emulated machine whose kernel has IPVS
	@tools/install-packages $(VM_PACKAGES)
	$(RUN_TESTS) test-vm $(BIN)/python tests/vm

.PHONY: conformance
conformance:  ## The agent under the controller's own code (one release: conformance-19)
	@tools/run_parts.py $(CONFORMANCE)

.PHONY: $(RELEASES:%=conformance-%)
$(RELEASES:%=conformance-%): conformance-%: $(VENV)/test .venv-octavia-%/ready
	$(RUN_CONFORMANCE) $(CONFORMANCE_TESTS)

# The newest release once more, on the newest Python.
.PHONY: conformance-19-py3.13
conformance-19-py3.13: $(VENV)/test .venv-octavia-19-py3.13/ready
	$(RUN_CONFORMANCE) $(CONFORMANCE_TESTS)
conformance-19-py3.13: RELEASE := 19-py3.13
conformance-19-py3.13: CONFORMANCE_TESTS := $(DIFFERING:%=tests/conformance/test_%.py)

.venv-octavia-19-py3.13/ready: tests/conformance/requirements-19.txt requirements/build.txt $(VENV)/test
	@python=$$($(BIN)/python -m lab.pythons); \
	PIP_OF=$(BIN)/python tools/make-venv "$$python" .venv-octavia-19-py3.13 $<
	@touch $@

# Release 10 can still speak API 0.5. Its laboratory is the same: never beside conformance-10.
.PHONY: conformance-10-0.5
conformance-10-0.5: $(VENV)/test .venv-octavia-10/ready
	$(RUN_CONFORMANCE) --api 0.5 $(CONFORMANCE_TESTS)

conformance-10-0.5: RELEASE := 10
$(foreach release,$(RELEASES),$(eval conformance-$(release): RELEASE := $(release)))
RUN_CONFORMANCE = AMPHORA_AGENT=$(CURDIR)/$(BIN)/amphora-agent \
    $(RUN_TESTS) $@ .venv-octavia-$(RELEASE)/bin/python -c tests/conformance/pytest.ini --rootdir=.
CONFORMANCE_TESTS := tests/conformance
conformance-14 conformance-10 conformance-10-0.5 conformance-2: \
    CONFORMANCE_TESTS := $(DIFFERING:%=tests/conformance/test_%.py)

.PHONY: openapi
openapi: $(VENV)/demo  ## Write docs/openapi.json, the document of API 2.0, anew
	$(BIN)/python -m amphora_agent.api.openapi > docs/openapi.json

.PHONY: scale
scale: $(VENV)/test  ## A load balancer with 5,000 listeners (LISTENERS=n), its times and memory
	LISTENERS=$${LISTENERS:-5000} $(BIN)/python -m pytest tests/integration/test_declared_many.py

.PHONY: bench
bench: $(VENV)/test  ## Time and memory, beside the floor of haproxy alone
	$(BIN)/python -m benchmarks

.PHONY: clean
clean:  ## Remove what make has made here
	rm -rf $(VENV) .venv-oldest $(NEWEST_VENV) .venv-octavia-* .cache build *.egg-info .mypy_cache .ruff_cache .pytest_cache

.PHONY: lock
lock:  ## Write the locks of all that is installed anew, with the newest releases (KEEP=1: keep what is locked)
	tools/lock

.PHONY: diagrams
diagrams: $(VENV)/test  ## Draw docs/diagrams/*.svg anew, after a change of the imports or of a *.dot
	@tools/install-packages graphviz
	$(BIN)/python tools/draw_diagrams.py

.PHONY: changelog
changelog: $(VENV)/test  ## Show what the next release says of itself, from changelog.d/
	@$(BIN)/python -m towncrier build --draft --version "$$(git describe --always)" 2>/dev/null

.PHONY: release
release: $(VENV)/test  ## Make a release: version, changelog, sdist, wheel, tag (VERSION=1.2.3)
	@$(BIN)/python tools/release.py "$(VERSION)"

.PHONY: newest
newest:  ## Try the newest release of every library beside the lock, and say what breaks
	@tools/install-packages $(TEST_PACKAGES)
	tools/try-newest "$(PYTHON)" $(NEWEST_VENV)

NEWEST_VENV := .venv-newest

LOCKED := pyproject.toml setup.py requirements/build.txt

$(VENV)/demo: requirements/agent.txt $(LOCKED)
	@tools/install-packages $(DEMO_PACKAGES)
	@tools/make-venv "$(PYTHON)" $(VENV) $< -e .
	@touch $@

$(VENV)/test: requirements/test.txt $(LOCKED)
	@tools/install-packages $(TEST_PACKAGES)
	@tools/make-venv "$(PYTHON)" $(VENV) $< -e .
	@touch $(VENV)/demo $@

.venv-oldest/ready: requirements/oldest.txt $(LOCKED)
	@tools/make-venv "$(PYTHON)" .venv-oldest $< -e .
	@touch $@

.venv-octavia-%/ready: tests/conformance/requirements-%.txt requirements/build.txt
	@tools/make-venv "$(PYTHON)" .venv-octavia-$* $<
	@touch $@
