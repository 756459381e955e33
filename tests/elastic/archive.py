"""The server's archive from Maven Central, and a Java to run it."""

import fcntl
import os
import re
import shutil
import stat
import subprocess
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARTIFACT = "org.elasticsearch.distribution.integ-test-zip:elasticsearch"

# The versions that the tests know, newest first, each with the Java versions that run it: 9 is compiled for 21,
# 8 for 17, and 8 wants the security manager that Java 24 took away. NEWEST is beyond any Java there is.
NEWEST = 99
VERSIONS = {"9.2.8": range(21, NEWEST + 1), "8.19.14": range(17, 24), "8.8.0": range(17, 24)}

# Elasticsearch refuses to run as root, who is the usual user in CI: root runs it as `nobody`.
NOBODY = 65534


class Fault(Exception):
    """What keeps a server from running, in one line that says what to do."""


def best() -> tuple[str, Path]:
    """The newest version that a Java of this machine can run, and that Java."""
    for version in VERSIONS:
        if found := find_java(version):
            return version, found
    raise Fault("no Java 17 or newer: apt-get install openjdk-17-jre-headless, or set ES_JAVA_HOME")


def java(version: str) -> Path:
    """A Java home that runs this version."""
    if found := find_java(version):
        return found
    wanted = javas(version)
    upto = f" to {wanted[-1]}" if wanted[-1] < NEWEST else " or newer"
    raise Fault(f"Elasticsearch {version} needs Java {wanted[0]}{upto}: install one or set ES_JAVA_HOME")


def find_java(version: str) -> Path | None:
    """The newest Java home that fits; one that was named in the environment comes first."""
    named = [Path(os.environ[name]) for name in ("ES_JAVA_HOME", "JAVA_HOME") if os.environ.get(name)]
    on_path = [Path(found).resolve().parents[1] for found in [shutil.which("java")] if found]
    installed = [*Path("/usr/lib/jvm").glob("*"), *on_path]
    for home in [*named, *sorted(installed, key=java_version, reverse=True)]:
        if java_version(home) in javas(version):
            return home
    return None


def javas(version: str) -> range:
    """The Java versions that run this version, also one that the tests do not know."""
    return VERSIONS.get(version) or VERSIONS["9.2.8" if int(version.split(".")[0]) >= 9 else "8.19.14"]


def java_version(home: Path) -> int:
    """The feature version (17, 25) of a Java home, from its `release` file; 0 where there is none."""
    release = home / "release"
    if not (home / "bin/java").exists() or not release.exists():
        return 0
    found = re.search(r'^JAVA_VERSION="(\d+)', release.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def home(version: str) -> Path:
    """The folder of the unpacked archive, fetched at the first use; two at once wait for one another."""
    kept = folder()
    kept.mkdir(parents=True, exist_ok=True)
    unpacked = kept / version
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not unpacked.exists():
            with tempfile.TemporaryDirectory(dir=kept) as work:
                # In place only when it is whole.
                unpack(fetch(version, Path(work)), Path(work)).rename(unpacked)
    return unpacked


def folder() -> Path:
    """Where archives are unpacked: `target`, unless root keeps the clone where nobody else may look."""
    kept = ROOT / "target/elasticsearch"
    if os.getuid() == 0 and not all(parent.stat().st_mode & stat.S_IXOTH for parent in ROOT.parents):
        return Path("/var/cache/doorward-elasticsearch")
    return kept


def fetch(version: str, into: Path) -> Path:
    """The zip, by Maven, which honours the mirrors and proxies that this machine is set up with."""
    if not shutil.which("mvn"):
        raise Fault("the server's archive comes by Maven, and mvn is missing: apt-get install maven")
    copy = ["dependency:copy", f"-Dartifact={ARTIFACT}:{version}:zip", f"-DoutputDirectory={into}"]
    done = subprocess.run(["mvn", "-B", "-q", *copy], check=False, cwd=into, text=True, capture_output=True)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or ["nothing"]
        raise Fault(f"mvn did not get {ARTIFACT}:{version}:zip: {said[0]}")
    return next(into.glob("*.zip"))


def unpack(archive: Path, into: Path) -> Path:
    """Unpacks with the modes kept, and gives all to `nobody` when root does it: some versions must own their folder."""
    with zipfile.ZipFile(archive) as content:
        content.extractall(into)
        for entry in content.infolist():
            if mode := entry.external_attr >> 16:
                (into / entry.filename).chmod(stat.S_IMODE(mode))
    unpacked = next(path for path in into.iterdir() if path.is_dir())
    give_away(unpacked)
    return unpacked


def give_away(path: Path) -> None:
    """Makes `nobody` own a folder and what is in it, when root asks."""
    if os.getuid() == 0:
        for owned in [path, *path.rglob("*")]:
            os.chown(owned, NOBODY, NOBODY)
