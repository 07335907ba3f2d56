# The ways to run this project. `make` alone lists them.
#
# Everything external (DuckDB, its extensions, the stock clients, Iceberg's reference catalog, MinIO) is fetched by .ci/setup
# into ~/.cache/polynya, checked against pinned SHA-256 sums, and handed to the programs by environment variables.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS   ?=

# Two steps on purpose: an `eval "$$(…)"` would hide that the set-up failed.
DUCKDB_ENV = variables="$$($(PYTHON) .ci/setup/duckdb.py --print-env)"; eval "$$variables"
# MinIO is built from its sources, which takes long: it has a script of its own, and `test` runs it beside the compiler.
MINIO_ENV  = variables="$$($(PYTHON) .ci/setup/minio.py --print-env)"; eval "$$variables"
ALL_ENV    = variables="$$($(PYTHON) .ci/setup/all.py --print-env)"; eval "$$variables"

.PHONY: help setup build test lint fmt demo bench interop soak

help: ## this list
	@echo "Polynya: an Arrow Flight SQL gateway to Iceberg lakehouses."
	echo
	echo "  make demo      first thing to try: a gateway on an embedded catalog, filled with TPC-H, queried"
	echo "  make test      all checks: formatting, lints, unit and integration tests with stock clients"
	echo
	grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 17
	echo
	echo "ARGS is handed to the program: make demo ARGS='--scale 1 --stay'"
	echo
	echo "Variables (all optional):"
	echo "  POLYNYA_CACHE            where fetched parts are kept (default ~/.cache/polynya)"
	echo "  DUCKDB_LIB_DIR           a directory with your own libduckdb, instead of the fetched one"
	echo "  POLYNYA_EXTENSION_DIR    a directory with your own DuckDB extensions"

setup: ## fetch and check every external part; prints the variables that point at them
	@$(PYTHON) .ci/setup/all.py --print-env
	$(PYTHON) .ci/setup/minio.py --print-env

build: ## the release binary, target/release/polynya
	@$(DUCKDB_ENV)
	cargo build --release --locked

test: ## formatting, lints, and every test that runs in CI
	@$(PYTHON) .ci/setup/minio.py & minio=$$!
	$(ALL_ENV)
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --no-run
	wait $$minio
	$(MINIO_ENV)
	cargo test --locked $(ARGS)

lint: ## formatting and lints only
	@$(DUCKDB_ENV)
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

fmt: ## format the Rust code
	@cargo fmt

demo: build ## gateway, data, queries and how to connect (ARGS: see polynya demo --help)
	@$(DUCKDB_ENV)
	./target/release/polynya demo $(ARGS)

bench: ## speed and memory at TPC-H scale 1 (ARGS='--against BINARY' for a before and after)
	@$(ALL_ENV)
	$(MINIO_ENV)
	"$$POLYNYA_CLIENTS_PYTHON" benches/run.py $(ARGS)

interop: build ## stock clients and foreign catalogs, at larger scale than the tests
	@$(ALL_ENV)
	"$$POLYNYA_CLIENTS_PYTHON" tests/interop/run.py $(ARGS)

soak: build ## long runs under load and faults
	@$(ALL_ENV)
	$(MINIO_ENV)
	"$$POLYNYA_CLIENTS_PYTHON" tests/soak/run.py $(ARGS)
