"""One node of the archive's server: its settings, and the command that it becomes.

`bin/elasticsearch` starts a launcher that starts the server and stays as its parent, both in one process group.
`kill -9 -GROUP` ends both, as a power cut would. To kill the server alone, take the launcher's only child
(`/proc/PID/task/PID/children`); the launcher then ends with its exit code. The server ends when its launcher does, so
the launcher alone is tied to whoever started it.
"""

import argparse
import base64
import hashlib
import json
import os
import secrets
from pathlib import Path

import archive

HEAP = "512m"

# What every server of the tests is told, in Docker too: alone, open, without what is slow or fetches from the network.
SETTINGS = {
    "discovery.type": "single-node",
    "xpack.security.enabled": "false",
    "cluster.max_shards_per_node": "10000",
    "cluster.routing.allocation.disk.threshold_enabled": "false",
    "action.destructive_requires_name": "false",
}
# Starting costs more than running here: no pages touched ahead, and the quick compiler only. The archive's own options
# would log the collector, too.
JVM = [
    "-XX:-AlwaysPreTouch",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.io.tmpdir=${ES_TMPDIR}",
]
LOGGING = """\
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%p][%c{1}] %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


def prepare(given: argparse.Namespace) -> tuple[str, list[str], dict[str, str]]:
    """Writes a node's settings into its folder; returns the program, arguments and environment to become it."""
    version, java = (given.version, archive.java(given.version)) if given.version else archive.best()
    home = archive.home(version)
    settings = SETTINGS | {
        "node.name": given.name,
        "network.host": "127.0.0.1",
        "http.port": str(given.http_port),
        "transport.port": str(given.transport_port or 0),
        "path.data": str(given.data.absolute() / "data"),
        "path.logs": str(given.data.absolute() / "logs"),
    }
    if given.seed_hosts:
        settings |= {"discovery.seed_hosts": given.seed_hosts, "cluster.initial_master_nodes": given.masters}
        settings["discovery.type"] = "multi-node"
    if given.password:
        settings["xpack.security.enabled"] = "true"
    settings |= dict(setting.split("=", 1) for setting in given.settings)
    options = [f"-Xms{given.heap}", f"-Xmx{given.heap}", *JVM]
    write_config(given.data / "config", settings, options)
    if given.password:
        write_users(given.data / "config", given.password, dict(role.split("=", 1) for role in given.roles))
    (given.data / "tmp").mkdir(exist_ok=True)
    archive.give_away(given.data)
    environment = {
        "PATH": os.environ["PATH"],
        "ES_PATH_CONF": str(given.data.absolute() / "config"),
        "ES_TMPDIR": str(given.data.absolute() / "tmp"),
        "ES_JAVA_HOME": str(java),
        "ES_JAVA_OPTS": os.environ.get("ES_JAVA_OPTS", ""),
    }
    return "setpriv", ["setpriv", *who(), str(home / "bin/elasticsearch")], environment


def who() -> list[str]:
    """The options of setpriv: not root, and dead when whoever started it is."""
    options = ["--pdeathsig", "KILL"]
    if os.getuid() == 0:
        options += ["--reuid", str(archive.NOBODY), "--regid", str(archive.NOBODY), "--clear-groups"]
    return options


def write_config(folder: Path, settings: dict[str, str], options: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # A JSON string is YAML, too.
    lines = [f"{name}: {json.dumps(value)}" for name, value in settings.items()]
    (folder / "elasticsearch.yml").write_text("\n".join(lines) + "\n")
    (folder / "jvm.options").write_text("\n".join(options) + "\n")
    (folder / "log4j2.properties").write_text(LOGGING)


def write_users(folder: Path, password: str, roles: dict[str, str]) -> None:
    """Users and roles by files, since the archive lacks the module that the index of the security API needs.

    Source: Elasticsearch's file realm and file-based roles. The hash spares the JVM that its own tool would start.
    """
    members = {"superuser": "es_admin"} | {role: role for role in roles}
    (folder / "users").write_text("".join(f"{user}:{password_hash(password)}\n" for user in members.values()))
    (folder / "users_roles").write_text("".join(f"{role}:{user}\n" for role, user in members.items()))
    (folder / "roles.yml").write_text("".join(f"{role}: {rights}\n" for role, rights in roles.items()))


def password_hash(password: str) -> str:
    """A password as `pbkdf2_10000` of Elasticsearch's hashing algorithms keeps it."""
    salt = secrets.token_bytes(32)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 10000, 32)
    return f"{{PBKDF2}}10000${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
