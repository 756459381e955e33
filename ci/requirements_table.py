#!/usr/bin/env python3
"""Prints which tests show which requirement, and fails where one has none.

The requirements are those of docs/requirements.md. A test shows a requirement when its name begins with the id:
`s07_…`. What later work is to show is listed here as open, with the reason; an entry that has got its test fails too,
so that the list stays true. A requirement whose test has not passed in full is told as unmet.

    ci/requirements_table.py [FOLDER]
"""

import re
import sys
from pathlib import Path

PAGE = Path("docs/requirements.md")
FOLDERS = ("src", "tests", "bench", "ci", "clients")

# Shown by something that is no test of ours with the id in its name.
ELSEWHERE = {
    "S22": "tests/conformance/run: Autobahn's cases",
    "S25": "Cargo.toml forbids unsafe; ci/check_dependencies.py holds licences, bans and version floors",
}

# Not shown yet.
OPEN: dict[str, str] = {}

# There is a test, and what it found when it was last run in full does not satisfy the requirement.
UNMET = {
    "R15": "the full run of 2026-11-28 found 7.32 ± 0.86 MiB an hour; the test has a longer warm-up since, not yet run",
}

REQUIREMENT = re.compile(r"^- \*\*([SJAR]\d+)\*\* ", re.MULTILINE)
TEST_NAME = re.compile(r"\b(?:fn|def) (?:test_)?([sjar])(\d\d)_(\w+)")


def tests_by_requirement(root: Path) -> dict[str, list[str]]:
    """The tests of every requirement, as `path::name`."""
    found: dict[str, list[str]] = {}
    paths = [path for folder in FOLDERS for kind in ("*.rs", "*.py") for path in (root / folder).rglob(kind)]
    for path in sorted(paths):
        for letter, number, rest in TEST_NAME.findall(path.read_text(encoding="utf-8")):
            name = f"{path.relative_to(root)}::{letter}{number}_{rest}"
            found.setdefault(f"{letter.upper()}{int(number)}", []).append(name)
    return found


def requirements(root: Path) -> list[str]:
    """The ids of the page, in its order."""
    return REQUIREMENT.findall((root / PAGE).read_text(encoding="utf-8"))


def table(known: list[str], found: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """The lines to print, and the faults."""
    lines, faults = [], []
    for requirement in known:
        tests = found.get(requirement, [])
        shown = [*tests, *([ELSEWHERE[requirement]] if requirement in ELSEWHERE else [])]
        if requirement in OPEN:
            lines.append(f"{requirement}  open: {OPEN[requirement]}")
            if shown:
                faults.append(f"{requirement} is listed as open, but has a test: {shown[0]}")
        elif not shown:
            faults.append(f"{requirement} has no test")
        lines.extend(f"{requirement}  {test}" for test in shown)
        if requirement in UNMET:
            lines.append(f"{requirement}  unmet: {UNMET[requirement]}")
    faults.extend(
        f"{requirement} is no requirement of {PAGE}: {found[requirement][0]}"
        for requirement in found.keys() - set(known)
    )
    return lines, faults


def main() -> int:
    """Prints the table; 1 when there is a fault."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    lines, faults = table(requirements(root), tests_by_requirement(root))
    print("\n".join(lines))
    for fault in sorted(faults):
        print(f"requirements: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
