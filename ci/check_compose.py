"""Checks what docker-compose.yml promises: known settings, pinned images, secrets asked for, a closed Elasticsearch.

No Docker engine is at hand where the tests run, so nothing here starts it; check-jsonschema holds the file against the
schema of the Compose specification.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

SECRETS = ("JWT_SECRET", "DOORWARD_PASSWORD_PEPPER")


def main() -> int:
    found = list(faults(Path("docker-compose.yml").read_text(), Path(".env.example").read_text()))
    for fault in found:
        print(f"docker-compose.yml: {fault}", file=sys.stderr)
    return 1 if found else 0


def faults(compose: str, settings: str) -> Iterator[str]:
    """What is wrong with this file, given the settings that `.env.example` lists."""
    services = YAML(typ="safe").load(compose)["services"]
    known = set(re.findall(r"^# (\w+)=", settings, re.MULTILINE))
    for name, service in services.items():
        image = service.get("image", "")
        if "build" not in service and not re.search(r":\d+\.\d+\.\d+$", image):
            yield f"{name}: its image {image!r} has no version"
        if "no-new-privileges:true" not in service.get("security_opt", []) or "ALL" not in service.get("cap_drop", []):
            yield f"{name}: it may gain privileges"
        if not service.get("mem_limit"):
            yield f"{name}: its memory has no limit"
    yield from store_faults(services["elasticsearch"])
    yield from gateway_faults(services["gateway"], known)


def store_faults(store: dict) -> Iterator[str]:
    """Its security is off, so nobody but the gateway may reach it."""
    if "ports" in store:
        yield "elasticsearch: it is published, with its security off"
    if "healthcheck" not in store:
        yield "elasticsearch: nothing tells when it is ready"


def gateway_faults(gateway: dict, known: set[str]) -> Iterator[str]:
    environment = gateway.get("environment", {})
    for unknown in sorted(environment.keys() - known):
        yield f"gateway: .env.example does not list {unknown}"
    for secret in SECRETS:
        if not str(environment.get(secret, "")).startswith(f"${{{secret}:?"):
            yield f"gateway: {secret} is not asked for"
    if gateway.get("depends_on", {}).get("elasticsearch", {}).get("condition") != "service_healthy":
        yield "gateway: it does not wait for Elasticsearch"
    if not gateway.get("read_only"):
        yield "gateway: its file system can be written"


if __name__ == "__main__":
    sys.exit(main())
