# syntax=docker/dockerfile:1
# The gateway as an image: built with the pinned toolchain, run without it by a user who is not root.
#
#   docker build -t doorward .
#   docker run --publish 8080:8080 --volume doorward:/data --stop-timeout 15 doorward
#
# The time to stop is there because SIGTERM drains for up to 10 s (DOORWARD_DRAIN_SECONDS), as long as Docker waits
# unless told.

# The version is rust-toolchain.toml's (checked by ci/check_dockerfile.py); that file itself would have rustup fetch
# components that no build needs. The image has the C compiler that SQLite wants.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /build
COPY . .
# The caches stay from build to build, so the program is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin doorward \
    && install -D target/release/doorward /out/doorward

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin doorward \
    && install --directory --owner=doorward --group=doorward --mode=0700 /data
COPY --from=build /out/doorward /usr/local/bin/doorward
USER 10001:10001
WORKDIR /data
ENV DOORWARD_LISTEN=0.0.0.0:8080 \
    DOORWARD_DATA_DIR=/data
VOLUME ["/data"]
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["doorward", "health"]
ENTRYPOINT ["doorward"]
CMD ["serve"]
