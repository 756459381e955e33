# What a person and CI run. `make test` fetches or starts everything the tests need.

.PHONY: build test test-long test-versions bench lint requirements fmt clean

build:
	cargo build --workspace --all-targets --locked

# Rust's tests with an Elasticsearch, then clients and a conformance suite that were not written here, against the same build.
# Once more on Elasticsearch: all that speak to a gateway, but for those that choose its home themselves. Last those that
# need the machine for themselves, one at a time: the recorded histories, for their load, and the clusters of three servers.
# Servers keep their data in memory: a refresh of a shard makes some twenty files, and no test cuts the power.
test: build
	tests/elastic/es run --in-memory -- cargo test --workspace --locked -- --skip cluster:: --skip feed::recorded::
	DOORWARD_TEST_STORE=elasticsearch tests/elastic/es run --in-memory -- cargo test --workspace --locked --test it -- \
		--skip store:: --skip elastic:: --skip durability:: --skip start:: --skip support:: --skip cluster:: --skip feed::recorded::
	$(RECORDED_ON) tests/elastic/es run --in-memory -- \
		cargo test --workspace --locked --test it feed::recorded:: -- --test-threads 1
	cargo test --workspace --locked --test it cluster:: -- --test-threads 1
	tests/clients/run
	tests/proxies/run
	tests/conformance/run

# The same with every loop at the full count that its requirement names, and at its load and within its time: on two cores
# that takes optimised gateways, and one test at a time. Then the fuzzers, a minute each.
test-long: export DOORWARD_TEST_LONG = 1
test-long: export RUST_TEST_THREADS = 1
test-long: export CARGO_PROFILE_DEV_OPT_LEVEL = 2
# And for the histories a server that compiles what is hot with all its compilers, as any does but those of tests.
test-long: RECORDED_ON = ES_JAVA_OPTS=-XX:TieredStopAtLevel=4
test-long: test
	fuzz/run

# The store's contract on the oldest server that it supports, the last of 8, and the newest.
test-versions: build
	for version in 8.8.0 8.19.14 9.2.8; do \
		env -u TEST_ES_URL tests/elastic/es run --version $$version -- \
			cargo test --workspace --locked --test it store::elastic || exit 1; \
	done

bench:
	cargo build --release --workspace --locked
	target/release/doorward-bench table

lint:
	ci/lint

# Which tests show which requirement; fails on a gap.
requirements:
	ci/requirements_table.py

fmt:
	cargo fmt --all
	"$$(ci/venv lint ci/requirements.txt)/bin/ruff" format

clean:
	cargo clean
