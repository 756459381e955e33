#!/usr/bin/env python3
"""Checks what the gateway is built from: licences, sources, banned crates, version floors, and `unsafe`.

It reads `cargo metadata` and says each fault in one line. It stands in for cargo-deny, whose installation takes longer
than all our tests; unlike it, it asks no advisory database: a floor is raised here when an advisory calls for it.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

# Permissive terms that ask for no more than a notice. Another one is a decision: add it here with the reason.
ALLOWED_LICENCES = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",  # the certificate authorities that rustls trusts: data
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}

BANNED = {
    "native-tls": "TLS is rustls, the same on every system",
    "openssl": "TLS is rustls, the same on every system",
    "openssl-sys": "TLS is rustls, the same on every system",
}

# The lowest version of a crate that may be used, and why.
FLOORS = {
    "bcrypt": ("0.19.2", "0.19.0 and 0.19.1 panic at a hash that is not ASCII (RUSTSEC-2026-0199)"),
    "jsonrpsee": ("0.26.0", "the method callbacks the connection calls"),
    "jsonwebtoken": ("10.3.0", "claims of a wrong type pass as absent before"),
    "tokio-tungstenite": ("0.30.0", "the buffer sizes the connection relies on"),
}

# The SQLite inside libsqlite3-sys; before it, a WAL reset can corrupt a database under concurrent writers.
SQLITE_FLOOR = "3.51.3"

# jsonwebtoken panics at first use with none of these features, and also with both.
CRYPTO_FEATURES = {"aws_lc_rs", "rust_crypto"}

ROOT = Path(__file__).resolve().parent.parent

CRATES_IO = {"registry+https://github.com/rust-lang/crates.io-index", "sparse+https://index.crates.io/"}


def main() -> int:
    metadata = cargo_metadata("Cargo.toml")
    faults = [*all_faults(metadata), *fuzz_faults(metadata, cargo_metadata("fuzz/Cargo.toml"))]
    for fault in faults:
        print(f"dependencies: {fault}", file=sys.stderr)
    several = list(duplicates(metadata))
    print(f"note: {len(several)} packages are there in several versions: {'; '.join(several)}")
    print(f"{len(metadata['packages'])} packages checked, {len(faults)} faults")
    return 1 if faults else 0


def cargo_metadata(manifest: str) -> dict:
    """The resolved packages of a workspace, exactly as its Cargo.lock has them."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--manifest-path", str(ROOT / manifest)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"dependencies: cargo metadata failed for {manifest}: {run.stderr.strip()}")
    return json.loads(run.stdout)


def all_faults(metadata: dict) -> Iterator[str]:
    yield from licence_faults(metadata)
    yield from source_faults(metadata)
    yield from ban_faults(metadata)
    yield from floor_faults(metadata)
    yield from crypto_faults(metadata)
    yield from sqlite_faults(metadata)
    yield from unsafe_faults(metadata)


def licence_faults(metadata: dict) -> Iterator[str]:
    """Packages whose terms, in every reading the author offers, hold a licence that is not on the list."""
    for package in metadata["packages"]:
        expression = package["license"]
        if not expression:
            yield f"{label(package)} names no licence"
            continue
        try:
            allowed = licence_allowed(expression)
        except ValueError as error:
            yield f"{label(package)} has an unreadable licence {expression!r}: {error}"
            continue
        if not allowed:
            yield f"{label(package)} is licensed {expression!r}, which is not allowed"


def source_faults(metadata: dict) -> Iterator[str]:
    """Packages from anywhere but crates.io and this workspace."""
    root = Path(metadata["workspace_root"])
    for package in metadata["packages"]:
        source = package["source"]
        if source is None:
            if not Path(package["manifest_path"]).is_relative_to(root):
                yield f"{label(package)} comes from a path outside the repository"
        elif source not in CRATES_IO:
            yield f"{label(package)} comes from {source}, not from crates.io"


def ban_faults(metadata: dict) -> Iterator[str]:
    for package in metadata["packages"]:
        if reason := BANNED.get(package["name"]):
            yield f"{label(package)} is banned: {reason}"


def floor_faults(metadata: dict) -> Iterator[str]:
    """Packages below their floor, and floors of packages that are gone (or misspelt)."""
    for name, (floor, reason) in FLOORS.items():
        packages = named(metadata, name)
        if not packages:
            yield f"{name} has a floor but is no dependency"
        for package in packages:
            if version(package["version"]) < version(floor):
                yield f"{label(package)} is below {floor}: {reason}"


def crypto_faults(metadata: dict) -> Iterator[str]:
    for package in named(metadata, "jsonwebtoken"):
        chosen = sorted(CRYPTO_FEATURES & features(metadata, package))
        if len(chosen) != 1:
            yield f"{label(package)} needs exactly one of {sorted(CRYPTO_FEATURES)}, has {chosen}"


def sqlite_faults(metadata: dict) -> Iterator[str]:
    packages = named(metadata, "libsqlite3-sys")
    if not packages:
        yield "libsqlite3-sys has a floor but is no dependency"
    for package in packages:
        if "bundled" not in features(metadata, package):
            yield f"{label(package)} needs the feature bundled: a system's SQLite may be older than {SQLITE_FLOOR}"
        header = Path(package["manifest_path"]).parent / "sqlite3" / "sqlite3.h"
        bundled = sqlite_version(header.read_text()) if header.is_file() else None
        if bundled is None:
            yield f"{label(package)} has no readable sqlite3/sqlite3.h"
        elif version(bundled) < version(SQLITE_FLOOR):
            yield f"{label(package)} bundles SQLite {bundled}, below {SQLITE_FLOOR}"


def unsafe_faults(metadata: dict) -> Iterator[str]:
    """Members of the workspace that may write `unsafe` (`cargo metadata` does not tell lints)."""
    root = Path(metadata["workspace_root"])
    lints = tomllib.loads((root / "Cargo.toml").read_text())["workspace"].get("lints", {})
    if lints.get("rust", {}).get("unsafe_code") != "forbid":
        yield "the workspace does not forbid unsafe_code"
    for package in metadata["packages"]:
        if package["id"] not in metadata["workspace_members"]:
            continue
        manifest = tomllib.loads(Path(package["manifest_path"]).read_text())
        if manifest.get("lints", {}).get("workspace") is not True:
            yield f"{label(package)} does not take the workspace's lints"


def fuzz_faults(metadata: dict, fuzzers: dict) -> Iterator[str]:
    """Packages that the fuzzers, a workspace with a lock of its own, try in another version than the gateway has."""
    for package in fuzzers["packages"]:
        versions = {each["version"] for each in named(metadata, package["name"])}
        if versions and package["version"] not in versions:
            yield f"fuzz/Cargo.lock has {label(package)}, Cargo.lock has {', '.join(sorted(versions))}"


def duplicates(metadata: dict) -> Iterator[str]:
    """Packages locked in several versions: worth knowing, no fault."""
    versions = defaultdict(list)
    for package in metadata["packages"]:
        versions[package["name"]].append(package["version"])
    for name, found in sorted(versions.items()):
        if len(found) > 1:
            yield " ".join([name, *sorted(found, key=version)])


def licence_allowed(expression: str) -> bool:
    """Whether an SPDX expression can be satisfied from the list. Source: SPDX 2.3, annex D; `/` is crates.io's old OR.

    Raises `ValueError` for what is no expression.
    """
    tokens = re.findall(r"[()]|[^\s()/]+|/", expression)
    position = 0

    def peek() -> str | None:
        return tokens[position] if position < len(tokens) else None

    def take() -> str:
        nonlocal position
        if (token := peek()) is None:
            raise ValueError("it ends too early")
        position += 1
        return token

    def either() -> bool:
        allowed = both()
        while peek() in ("OR", "/"):
            take()
            allowed = both() or allowed
        return allowed

    def both() -> bool:
        allowed = one()
        while peek() == "AND":
            take()
            allowed = one() and allowed
        return allowed

    def one() -> bool:
        licence = take()
        if licence == "(":
            allowed = either()
            if take() != ")":
                raise ValueError("a bracket is not closed")
            return allowed
        if not re.fullmatch(r"[A-Za-z0-9.-]+\+?", licence) or licence in ("OR", "AND", "WITH"):
            raise ValueError(f"{licence!r} is no licence")
        if peek() == "WITH":
            take()
            licence = f"{licence} WITH {take()}"
        return licence in ALLOWED_LICENCES

    allowed = either()
    if peek() is not None:
        raise ValueError(f"{peek()!r} is left over")
    return allowed


def version(text: str) -> tuple[int, int, int, bool]:
    """A version to compare: a pre-release comes before its release, build metadata do not count."""
    core, _, pre_release = text.partition("+")[0].partition("-")
    major, minor, patch = (int(part) for part in core.split("."))
    return major, minor, patch, not pre_release


def sqlite_version(header: str) -> str | None:
    match = re.search(r'^#define SQLITE_VERSION\s+"([0-9.]+)"', header, re.MULTILINE)
    return match and match[1]


def named(metadata: dict, name: str) -> list[dict]:
    return [package for package in metadata["packages"] if package["name"] == name]


def features(metadata: dict, package: dict) -> set[str]:
    """The features the package is built with, whoever asked for them."""
    return {
        feature for node in metadata["resolve"]["nodes"] if node["id"] == package["id"] for feature in node["features"]
    }


def label(package: dict) -> str:
    return f"{package['name']} {package['version']}"


if __name__ == "__main__":
    sys.exit(main())
