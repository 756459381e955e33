"""Each rule finds its fault, and a sound workspace has none."""

import tempfile
import unittest
from pathlib import Path

import check_dependencies as check


def workspace(folder: str, **changes: dict) -> dict:
    """Metadata of a sound workspace in `folder`; `changes` overrides fields of the packages they name."""
    root = Path(folder)
    lints = '[workspace.lints.rust]\nunsafe_code = "forbid"\n[lints]\nworkspace = true\n'
    (root / "Cargo.toml").write_text(f"[workspace]\n{lints}")
    sqlite = root / "registry" / "sqlite3"
    sqlite.mkdir(parents=True)
    (sqlite / "sqlite3.h").write_text('#define SQLITE_VERSION        "3.51.3"\n')
    packages = [package(root / "Cargo.toml", "doorward", "0.1.0", source=None)]
    manifest = root / "registry" / "Cargo.toml"
    packages += [package(manifest, name, floor) for name, (floor, _) in check.FLOORS.items()]
    packages.append(package(manifest, "libsqlite3-sys", "0.39.1", features=["bundled"]))
    for each in packages:
        if each["name"] == "jsonwebtoken":
            each["features"] = ["rust_crypto"]
        each.update(changes.get(each["name"].replace("-", "_"), {}))
    nodes = [{"id": each["id"], "features": each["features"]} for each in packages]
    return {
        "packages": packages,
        "resolve": {"nodes": nodes},
        "workspace_members": ["doorward"],
        "workspace_root": folder,
    }


def package(manifest: Path, name: str, version: str, source: str | None = next(iter(check.CRATES_IO)), **more) -> dict:
    fields = {"license": "MIT", "features": []} | more
    return {"id": name, "name": name, "version": version, "source": source, "manifest_path": str(manifest)} | fields


class Rules(unittest.TestCase):
    def faults(self, **changes: dict) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            return list(check.all_faults(workspace(folder, **changes)))

    def assert_one_fault(self, part: str, **changes: dict) -> None:
        faults = self.faults(**changes)
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(part, faults[0])
        self.assertNotIn("\n", faults[0])

    def test_a_sound_workspace_has_no_fault(self):
        self.assertEqual(self.faults(), [])

    def test_a_licence_that_is_not_on_the_list_is_a_fault(self):
        self.assert_one_fault("'GPL-3.0-only'", bcrypt={"license": "GPL-3.0-only"})
        self.assert_one_fault("names no licence", bcrypt={"license": None})
        self.assert_one_fault("unreadable", bcrypt={"license": "MIT AND"})

    def test_fuzzers_with_other_versions_than_the_gateway_are_a_fault(self):
        with tempfile.TemporaryDirectory() as folder:
            gateway = workspace(folder)
        manifest = Path("Cargo.toml")
        fuzzers = {"packages": [*gateway["packages"], package(manifest, "libfuzzer-sys", "0.4.13")]}
        self.assertEqual(list(check.fuzz_faults(gateway, fuzzers)), [])
        fuzzers["packages"].append(package(manifest, "bcrypt", "1.0.0"))
        faults = list(check.fuzz_faults(gateway, fuzzers))
        self.assertEqual(faults, ["fuzz/Cargo.lock has bcrypt 1.0.0, Cargo.lock has 0.19.2"])

    def test_git_and_foreign_paths_are_faults(self):
        self.assert_one_fault("not from crates.io", bcrypt={"source": "git+https://example.org/bcrypt"})
        self.assert_one_fault("outside the repository", bcrypt={"source": None, "manifest_path": "/bcrypt/Cargo.toml"})

    def test_a_banned_crate_is_a_fault(self):
        self.assertIn(
            "native-tls 0.1.0 is banned: TLS is rustls, the same on every system",
            self.faults(doorward={"name": "native-tls"}),
        )

    def test_a_version_below_its_floor_is_a_fault(self):
        self.assert_one_fault("below 0.19.2", bcrypt={"version": "0.19.1"})
        self.assert_one_fault("below 10.3.0", jsonwebtoken={"version": "10.3.0-rc.1"})
        self.assertEqual(self.faults(jsonwebtoken={"version": "11.0.0+build.7"}), [])

    def test_a_floor_of_an_absent_crate_is_a_fault(self):
        self.assert_one_fault("jsonrpsee has a floor but is no dependency", jsonrpsee={"name": "other"})

    def test_jsonwebtoken_has_exactly_one_crypto_feature(self):
        self.assert_one_fault("has []", jsonwebtoken={"features": ["use_pem"]})
        self.assert_one_fault("exactly one", jsonwebtoken={"features": ["rust_crypto", "aws_lc_rs"]})

    def test_sqlite_is_bundled_and_new_enough(self):
        self.assert_one_fault("needs the feature bundled", libsqlite3_sys={"features": []})
        with tempfile.TemporaryDirectory() as folder:
            metadata = workspace(folder)
            header = Path(folder) / "registry" / "sqlite3" / "sqlite3.h"
            header.write_text('#define SQLITE_VERSION "3.51.2"\n')
            self.assertEqual(
                list(check.all_faults(metadata)), ["libsqlite3-sys 0.39.1 bundles SQLite 3.51.2, below 3.51.3"]
            )
            header.unlink()
            self.assertIn("no readable", next(check.all_faults(metadata)))

    def test_unsafe_stays_forbidden_in_every_member(self):
        with tempfile.TemporaryDirectory() as folder:
            metadata = workspace(folder)
            (Path(folder) / "Cargo.toml").write_text("[workspace]\n")
            self.assertEqual(
                list(check.all_faults(metadata)),
                ["the workspace does not forbid unsafe_code", "doorward 0.1.0 does not take the workspace's lints"],
            )

    def test_duplicates_are_told_in_order_and_are_no_fault(self):
        metadata = {"packages": [package(Path("x"), "rand", version) for version in ("0.10.4", "0.9.5")]}
        self.assertEqual(list(check.duplicates(metadata)), ["rand 0.9.5 0.10.4"])


class Licences(unittest.TestCase):
    def test_an_expression_is_allowed_when_one_reading_is(self):
        for expression in (
            "MIT",
            "MIT/GPL-3.0",
            "GPL-2.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
            "GPL-3.0 OR MIT AND ISC",
        ):
            self.assertTrue(check.licence_allowed(expression), expression)
        for expression in (
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT AND (GPL-2.0 OR LGPL-2.1)",
            "MIT WITH LLVM-exception",
            "MIT+",
            "mit",
            "(MIT OR ISC) AND GPL-3.0",
        ):
            self.assertFalse(check.licence_allowed(expression), expression)

    def test_what_is_no_expression_is_refused(self):
        for expression in ("", "MIT OR", "(MIT", "MIT)", "MIT ISC", "AND MIT", "MIT WITH", "MIT, ISC"):
            with self.assertRaises(ValueError, msg=expression):
                check.licence_allowed(expression)


if __name__ == "__main__":
    unittest.main()
