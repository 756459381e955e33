"""A gap, a stale entry and an unknown id are told; a covered requirement is not."""

import tempfile
import unittest
from pathlib import Path
from unittest import mock

import requirements_table

PAGE = "- **S7** Attempts are throttled.\n- **S8** Limits count calls.\n\nS9 is named in passing.\n"


class Requirements(unittest.TestCase):
    """The faults of small sets of tests."""

    def faults(self, test: str) -> list[str]:
        """What is wrong with a tree of two requirements whose only test has this name."""
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "docs").mkdir()
            (root / "docs" / "requirements.md").write_text(PAGE)
            (root / "tests").mkdir()
            (root / "tests" / "some.rs").write_text(f"async fn {test}() {{}}")
            known = requirements_table.requirements(root)
            return requirements_table.table(known, requirements_table.tests_by_requirement(root))[1]

    def test_a_requirement_without_a_test_is_told(self) -> None:
        """Of two, the one that no name carries."""
        self.assertEqual(self.faults("s07_it_is_throttled"), ["S8 has no test"])

    def test_an_open_requirement_that_has_a_test_is_told(self) -> None:
        """The list of open ones must shrink with the work."""
        with mock.patch.dict(requirements_table.OPEN, {"S8": "a later work"}):
            faults = self.faults("s08_they_count")
        self.assertIn("S8 is listed as open, but has a test: tests/some.rs::s08_they_count", faults)

    def test_an_unmet_requirement_is_told_beside_its_test(self) -> None:
        """A name shows that there is a test, not that it has passed in full."""
        found = {"S7": ["tests/some.rs::s07_it_is_throttled"]}
        with mock.patch.dict(requirements_table.UNMET, {"S7": "it failed"}):
            lines, faults = requirements_table.table(["S7"], found)
        self.assertEqual(lines, ["S7  tests/some.rs::s07_it_is_throttled", "S7  unmet: it failed"])
        self.assertEqual(faults, [])

    def test_an_id_that_is_no_requirement_is_told(self) -> None:
        """A slip in a name would show nothing."""
        for test in ("s99_a_slip", "s09_named_in_passing"):
            requirement = f"S{int(test[1:3])}"
            fault = f"{requirement} is no requirement of docs/requirements.md: tests/some.rs::{test}"
            self.assertIn(fault, self.faults(test))


if __name__ == "__main__":
    unittest.main()
