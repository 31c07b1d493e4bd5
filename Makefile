# Two commands do it all on a fresh Debian 12, as root: `make demo` and `make test`.
# They install what they need: Debian packages, and virtual environments beside this file.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Releases of Octavia whose controller drives the agent in tests/conformance.
RELEASES := 19 10

# What runs the agent, what its demo uses, and what only its tests do.
DEMO_PACKAGES := haproxy nftables udhcpc iproute2 curl procps ca-certificates python3 python3-venv
TEST_PACKAGES := $(DEMO_PACKAGES) keepalived dnsmasq-base iputils-ping openssl git \
    mmdebstrap systemd-container debian-archive-keyring patchelf util-linux

.PHONY: help
help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: $(VENV)/demo  ## Show the agent at work: plug, push, balance, heartbeats (KEEP=1: stay until Ctrl-C)
	@$(BIN)/python -m lab.demo $(if $(KEEP),--keep)

.PHONY: test
test: lint unit integration systemd conformance  ## Everything: style, types, import rules, all tests

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
	$(BIN)/python -m pytest tests/lab tests/integration

.PHONY: systemd
systemd: $(VENV)/test  ## The installed wheel in a booted systemd
	$(BIN)/python -m pytest tests/systemd

.PHONY: conformance
conformance: $(RELEASES:%=conformance-%)  ## The agent under the controller's own code

.PHONY: $(RELEASES:%=conformance-%)
$(RELEASES:%=conformance-%): conformance-%: $(VENV)/test .venv-octavia-%/ready
	AMPHORA_AGENT=$(CURDIR)/$(BIN)/amphora-agent \
	    .venv-octavia-$*/bin/python -m pytest -c tests/conformance/pytest.ini --rootdir=. tests/conformance

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
	@tools/make-venv "$(PYTHON)" .venv-octavia-$* -r $<
	@touch $@
