"""The repository's own docker-compose.yml passes, and each broken promise is told."""

import unittest
from pathlib import Path

import check_compose as check

ROOT = Path(__file__).parent.parent
SOUND = (ROOT / "docker-compose.yml").read_text()
SETTINGS = (ROOT / ".env.example").read_text()


class Promises(unittest.TestCase):
    def assert_one_fault(self, part: str, old: str, new: str) -> None:
        self.assertIn(old, SOUND)
        faults = list(check.faults(SOUND.replace(old, new, 1), SETTINGS))
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(part, faults[0])

    def test_the_repositorys_file_keeps_them(self):
        self.assertEqual(list(check.faults(SOUND, SETTINGS)), [])

    def test_every_setting_of_the_gateway_is_listed(self):
        self.assert_one_fault("DOORWARD_PORT", "DOORWARD_LISTEN: 0.0.0.0:8080", "DOORWARD_PORT: 8080")
        self.assert_one_fault("ELASTIC_URL", "ES_URL:", "ELASTIC_URL:")

    def test_images_have_versions(self):
        self.assert_one_fault("no version", "elasticsearch:9.2.8", "elasticsearch")
        self.assert_one_fault("no version", "elasticsearch:9.2.8", "elasticsearch:latest")

    def test_secrets_are_asked_for(self):
        self.assert_one_fault("JWT_SECRET", "${JWT_SECRET:?", "${JWT_SECRET:-")
        self.assert_one_fault("PEPPER", "${DOORWARD_PASSWORD_PEPPER:?", "${DOORWARD_PASSWORD_PEPPER:-")

    def test_an_open_elasticsearch_is_not_published(self):
        self.assert_one_fault("published", "networks: [store]", 'ports: ["9200:9200"]')

    def test_the_gateway_waits_for_a_healthy_elasticsearch(self):
        self.assert_one_fault("wait", "service_healthy", "service_started")
        self.assert_one_fault("ready", "healthcheck:", "x-check:")

    def test_nothing_gains_privileges_or_all_memory(self):
        self.assert_one_fault("privileges", "cap_drop: [ALL]", "cap_drop: []")
        self.assert_one_fault("privileges", 'security_opt: ["no-new-privileges:true"]', "security_opt: []")
        self.assert_one_fault("memory", "mem_limit: 2g", "pids_limit: 100")
        self.assert_one_fault("written", "read_only: true", "read_only: false")


if __name__ == "__main__":
    unittest.main()
