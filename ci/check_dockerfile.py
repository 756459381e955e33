#!/usr/bin/env python3
"""Checks what the image promises: the pinned Rust, no root, the documented port, folder and health check.

No Docker engine is at hand where the tests run, so nothing here builds the image; hadolint reads the rest of the file.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

# What the last stage must say, word for word.
PROMISES = {
    "VOLUME": '["/data"]',
    "EXPOSE": "8080",
    "ENTRYPOINT": '["doorward"]',
    "CMD": '["serve"]',
}
SETTINGS = {"DOORWARD_LISTEN": "0.0.0.0:8080", "DOORWARD_DATA_DIR": "/data"}
HEALTH = ["doorward", "health"]


def main() -> int:
    toolchain = tomllib.loads(Path("rust-toolchain.toml").read_text())["toolchain"]["channel"]
    found = list(faults(Path("Dockerfile").read_text(), toolchain))
    for fault in found:
        print(f"Dockerfile: {fault}", file=sys.stderr)
    return 1 if found else 0


def faults(dockerfile: str, toolchain: str) -> Iterator[str]:
    stages = list(split_stages(instructions(dockerfile)))
    if len(stages) < 2:
        yield "it has one stage: the toolchain would be shipped"
        return
    build, last = stages[0], stages[-1]
    if not re.match(rf"rust:{re.escape(toolchain)}-slim-bookworm\b", build[0][1]):
        yield f"it builds with {build[0][1]!r}, not with Rust {toolchain} of rust-toolchain.toml on Debian 12"
    if last[0][1] != "debian:bookworm-slim":
        yield f"it ships {last[0][1]!r}, not debian:bookworm-slim"
    said = dict(last)
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", said.get("USER", "")):
        yield "its user is not given by number, or is root"
    for instruction, words in PROMISES.items():
        if said.get(instruction) != words:
            yield f"{instruction} is {said.get(instruction)!r}, not {words!r}"
    settings = dict(setting.split("=", 1) for setting in said.get("ENV", "").split())
    if settings != SETTINGS:
        yield f"ENV is {settings}, not {SETTINGS}"
    _, command, words = said.get("HEALTHCHECK", "").partition("CMD ")
    if not command or json.loads(words) != HEALTH:
        yield f"HEALTHCHECK does not run {' '.join(HEALTH)}"


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Name and words of each instruction, with comments dropped and continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, words = line.strip().partition(" ")
            yield name.upper(), " ".join(words.split())


def split_stages(found: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    stage: list[tuple[str, str]] = []
    for instruction in found:
        if instruction[0] == "FROM" and stage:
            yield stage
            stage = []
        stage.append(instruction)
    if stage:
        yield stage


if __name__ == "__main__":
    sys.exit(main())
