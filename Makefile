# SPDX-License-Identifier: Apache-2.0
# The README's two commands. Each does its own set-up: packages, configuration, build.

JOBS ?= $(shell nproc 2>/dev/null || echo 2)

# cmake/setup.sh puts a newer cmake there where the system's is too old.
export PATH := $(CURDIR)/build/tools/bin:$(PATH)

# What cmake says on stderr is the table of what was found, and errors.
define build
	@cmake/setup.sh
	@if command -v ninja >/dev/null; then export CMAKE_GENERATOR="$${CMAKE_GENERATOR:-Ninja}"; fi; \
	  cmake --preset release --log-level=NOTICE $(CONFIGURE) >/dev/null
	@cmake --build --preset release -j $(JOBS) --target $(1)
endef

.NOTPARALLEL:

.PHONY: help
help:
	@echo "make demo    says which bucket size to use on this machine (bench_allgather --tune)"
	@echo "make check   builds, and passes all tests that this machine can run"
	@echo
	@echo "make build   builds alone; programs land in build/bin"
	@echo "DEMO='--ranks 4'                 is handed to bench_allgather by make demo"
	@echo "CONFIGURE='-DTESSERA_WITH_UCX=OFF'  is handed to cmake by all three"

.PHONY: demo
demo:
	$(call build,bench_allgather)
	@build/bin/bench_allgather --tune $(DEMO)

.PHONY: check
check:
	$(call build,all)
	@ctest --preset release

.PHONY: build
build:
	$(call build,all)
