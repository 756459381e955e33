"""Autobahn's WebSocket cases, run by kosoku against a server that prints `listening on HOST:PORT` (S22).

A case may end OK, NON-STRICT (it departs from a SHOULD) or INFORMATIONAL (the standard says nothing), as Autobahn
defines them; anything else fails the run. Groups 12 and 13, compression, are left out: the gateway does not offer it.
"""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kosoku import FailureError, run_fuzzingclient
from kosoku._kosoku import CaseResult
from kosoku._report import write_reports

GROUPS = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
# What these groups hold in the pinned version: a run that finds fewer has tested less than it says.
CASES = 301
REPORT = Path("target/conformance")
DEADLINE_SECONDS = 600


def main() -> int:
    echo, cases = sys.argv[1], sys.argv[2:]
    with serving(echo) as address:
        results = asyncio.run(asyncio.wait_for(run(f"ws://{address}", cases or GROUPS), DEADLINE_SECONDS))
    write_reports(results, str(REPORT))
    failed = [result for result in results if not result.passed]
    for result in results:
        if not result.passed or verdict(result) != ("OK", "OK"):
            print(describe(result))
    print(f"verdicts: {tally(results)}; the wire logs are in {REPORT}/index.html")
    if not cases and len(results) != CASES:
        print(f"ran {len(results)} cases instead of {CASES}", file=sys.stderr)
        return 1
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not results else 0


@contextmanager
def serving(command: str) -> Iterator[str]:
    """Starts the server on a free port, yields its address, and stops it."""
    with subprocess.Popen([command, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline().strip()
            if not line.startswith("listening on "):
                sys.exit(f"tests/conformance: {command} said {line!r} instead of its address")
            yield line.removeprefix("listening on ")
            if server.poll() is not None:
                sys.exit(f"tests/conformance: {command} ended by itself, with {server.returncode}")
        finally:
            server.kill()


async def run(url: str, cases: list[str]) -> list[CaseResult]:
    try:
        return await run_fuzzingclient(url, cases, concurrency=2)
    except FailureError as failure:
        return failure.results


def verdict(result: CaseResult) -> tuple[str, str]:
    return result.behavior.value, result.behavior_close.value


def describe(result: CaseResult) -> str:
    behavior, close = verdict(result)
    line = f"{result.case_id}: {behavior}, close {close} (code {result.remote_close_code})"
    return f"passed {line}" if result.passed else f"FAILED {line} — {result.result} {result.result_close}"


def tally(results: list[CaseResult]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(verdict(each)[0] for each in results).most_common())


if __name__ == "__main__":
    sys.exit(main())
