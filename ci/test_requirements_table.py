"""A gap, a stale entry and an unknown id are told; a covered requirement is not."""

import tempfile
import unittest
from pathlib import Path

import requirements_table as requirements


class Requirements(unittest.TestCase):
    """The faults of small sets of tests."""

    def faults(self, test: str) -> list[str]:
        """What is wrong with a tree whose only test has this name."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "tests").mkdir()
            (Path(folder) / "tests" / "some.rs").write_text(f"async fn {test}() {{}}")
            return requirements.table(requirements.tests_by_requirement(Path(folder)))[1]

    def test_a_requirement_without_a_test_is_told(self) -> None:
        """Of two, the one that no name carries."""
        faults = self.faults("s07_it_is_throttled")
        self.assertIn("S8 has no test", faults)
        self.assertNotIn("S7 has no test", faults)

    def test_an_open_requirement_that_has_a_test_is_told(self) -> None:
        """The list of open ones must shrink with the work."""
        self.assertTrue(any("listed as open" in fault for fault in self.faults("r15_it_soaks")))

    def test_an_id_that_is_no_requirement_is_told(self) -> None:
        """A slip in a name would show nothing."""
        self.assertIn("S99 is no requirement: tests/some.rs::s99_a_slip", self.faults("s99_a_slip"))


if __name__ == "__main__":
    unittest.main()
