"""Runs the steps of a class in the order they are written and counts them.

A step that fails is told with what it saw, and the next ones still run: one fault should not hide another. The closing
line is `N passed, M failed`.
"""

import traceback
from typing import Any


def run(life: Any) -> tuple[int, int]:
    """Runs every public method of `life`; returns how many passed and failed."""
    passed = failed = 0
    for name, step in vars(type(life)).items():
        if name.startswith("_") or not callable(step):
            continue
        try:
            step(life)
        except Exception:
            failed += 1
            print(f"FAILED {name.replace('_', ' ')}\n{traceback.format_exc()}", flush=True)
        else:
            passed += 1
            print(f"ok     {name.replace('_', ' ')}", flush=True)
    return passed, failed


def main(*lives: Any) -> int:
    """Runs the steps of each life and prints the closing line; the program's exit code."""
    passed, failed = (sum(counts) for counts in zip(*map(run, lives), strict=True))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def equal(found: Any, wanted: Any) -> None:
    assert found == wanted, f"found {found!r}, wanted {wanted!r}"


def members(found: dict, *wanted: str) -> None:
    """The object has exactly these members."""
    assert isinstance(found, dict), f"{found!r} is no object"
    equal(sorted(found), sorted(wanted))
