"""A server for one command: one that is there (TEST_ES_URL), else Docker's, else the archive's.

The server is this program's child and dies with it, even when it is killed: `setpriv --pdeathsig` sees to that.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import archive
import node

# Docker may have to fetch its image meanwhile; a server that ends is noticed at once.
START_SECONDS = 300
STOP_SECONDS = 10
# Where a test's server keeps its data when asked to keep them in memory, and how much must be free there.
MEMORY = Path("/dev/shm")  # noqa: S108 (the folder in it is made by tempfile)
MEMORY_BYTES = 2 << 30
IMAGE = "docker.elastic.co/elasticsearch/elasticsearch"


def run(given: argparse.Namespace) -> int:
    """Runs the command and returns its exit code; a signal ends command and server alike."""
    if os.environ.get("TEST_ES_URL"):
        os.execvp(given.command[0], given.command)
    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(caught, lambda number, _: sys.exit(128 + number))
    place = memory() if given.in_memory else None
    with tempfile.TemporaryDirectory(prefix="doorward-es-", dir=place, ignore_cleanup_errors=True) as work:
        Path(work).chmod(0o711)
        with server(given, Path(work)) as url:
            return run_command(given.command, os.environ | {"TEST_ES_URL": url})


def memory() -> Path | None:
    """A place in memory, where there is one with room; else the data go where all temporary files go."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
            return MEMORY
    print(f"tests/elastic/es: {MEMORY} has no room: the server's data are kept on disk", file=sys.stderr)
    return None


def run_command(command: list[str], environment: dict[str, str]) -> int:
    child = subprocess.Popen(command, env=environment)
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


@contextlib.contextmanager
def server(given: argparse.Namespace, work: Path) -> Iterator[str]:
    """Starts a server, waits until it answers, gives its URL, and stops it."""
    began = time.monotonic()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    start = docker_command if docker_answers() else archive_command
    command, what = start(given, work, port)
    log = work / "log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until_ready(child, url, log)
        print(f"tests/elastic/es: {what} at {url} after {time.monotonic() - began:.1f} s", file=sys.stderr)
        yield url
    finally:
        stop(child)


def docker_answers() -> bool:
    with contextlib.suppress(FileNotFoundError, subprocess.TimeoutExpired):
        return subprocess.run(["docker", "info"], check=False, capture_output=True, timeout=10).returncode == 0
    return False


def docker_command(given: argparse.Namespace, _: Path, port: int) -> tuple[list[str], str]:
    """The container in the foreground: docker passes the signal that ends it on, and removes what is left."""
    version = given.version or next(iter(archive.VERSIONS))
    settings = node.SETTINGS | {"ES_JAVA_OPTS": f"-Xms{given.heap} -Xmx{given.heap}"}
    command = ["setpriv", "--pdeathsig", "TERM", "docker", "run", "--rm", f"--publish=127.0.0.1:{port}:9200"]
    command += [f"--name=doorward-es-{secrets.token_hex(4)}", *(f"--env={n}={v}" for n, v in settings.items())]
    if given.in_memory:
        command.append("--tmpfs=/usr/share/elasticsearch/data:mode=1777")
    return [*command, f"{IMAGE}:{version}"], f"Elasticsearch {version} in Docker"


def archive_command(given: argparse.Namespace, work: Path, port: int) -> tuple[list[str], str]:
    try:
        version = given.version or archive.best()[0]
        archive.java(version)
        archive.home(version)
    except archive.Fault as fault:
        raise archive.Fault(f"no Elasticsearch: set TEST_ES_URL, or start Docker, or mend this: {fault}") from None
    newest = next(iter(archive.VERSIONS))
    what = f"Elasticsearch {version}"
    if not given.version and version != newest:
        what += f" (for {newest}, install Java {archive.VERSIONS[newest].start} or newer)"
    program = [
        str(Path(__file__).with_name("es")),
        "node",
        "--version",
        version,
        "--name",
        "test",
        "--heap",
        given.heap,
    ]
    return [*program, "--http-port", str(port), "--data", str(work / "node")], what


def wait_until_ready(child: subprocess.Popen, url: str, log: Path) -> None:
    """Waits for a yellow cluster. `GET /` would not do: the archive's server answers it with 405."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(OSError):
            opener.open(f"{url}/_cluster/health?wait_for_status=yellow&timeout=5s", timeout=10).close()
            return
        time.sleep(0.1)
    ended = "did not come up" if child.poll() is None else f"ended with {child.returncode}"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise archive.Fault(f"Elasticsearch {ended}; its log ends:\n{tail}")


def stop(child: subprocess.Popen) -> None:
    """Ends the server's whole process group: with a word before for Docker's sake, since data need no saving."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if "docker" in child.args:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(STOP_SECONDS)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
