# What a person and CI run. `make test` fetches or starts everything the tests need.

.PHONY: build test test-long bench lint fmt clean

build:
	cargo build --workspace --all-targets --locked

# Rust's tests, then clients and a conformance suite that were not written here, against the same build.
test: build
	cargo test --workspace --locked
	tests/clients/run
	tests/conformance/run

# The same with every loop at the full count that its requirement names.
test-long: export DOORWARD_TEST_LONG = 1
test-long: test

bench:
	cargo build --release --workspace --locked
	cargo run --release --locked --package doorward-bench -- table

lint:
	ci/lint

fmt:
	cargo fmt --all
	"$$(ci/venv lint ci/requirements.txt)/bin/ruff" format

clean:
	cargo clean
