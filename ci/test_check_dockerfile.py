"""The repository's own Dockerfile passes, and each broken promise is told."""

import unittest
from pathlib import Path

import check_dockerfile as check

SOUND = (Path(__file__).parent.parent / "Dockerfile").read_text()


class Promises(unittest.TestCase):
    def assert_one_fault(self, part: str, old: str, new: str) -> None:
        self.assertIn(old, SOUND)
        faults = list(check.faults(SOUND.replace(old, new), "1.95.0"))
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(part, faults[0])

    def test_the_repositorys_file_keeps_them(self):
        self.assertEqual(list(check.faults(SOUND, "1.95.0")), [])

    def test_the_toolchain_is_the_pinned_one(self):
        self.assert_one_fault("not with Rust 1.95.0", "rust:1.95.0", "rust:1.96.0")

    def test_the_toolchain_is_not_shipped(self):
        self.assert_one_fault("one stage", "FROM debian:bookworm-slim", "")
        self.assert_one_fault("not debian:bookworm-slim", "FROM debian:bookworm-slim", "FROM build")

    def test_nothing_runs_as_root(self):
        for user in ("", "USER root", "USER 0:0", "USER doorward"):
            self.assert_one_fault("root", "USER 10001:10001", user)

    def test_port_folder_and_settings_are_the_documented_ones(self):
        self.assert_one_fault("EXPOSE", "EXPOSE 8080", "EXPOSE 80")
        self.assert_one_fault("VOLUME", 'VOLUME ["/data"]', "")
        self.assert_one_fault("ENV", "DOORWARD_LISTEN=0.0.0.0:8080", "DOORWARD_LISTEN=127.0.0.1:8080")

    def test_the_health_check_is_the_programs_own(self):
        self.assert_one_fault("HEALTHCHECK", '"doorward", "health"', '"curl", "http://127.0.0.1:8080/readyz"')


if __name__ == "__main__":
    unittest.main()
