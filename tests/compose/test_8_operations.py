"""What docs/operations.md tells an operator to type."""

import json
import re
import unittest

from stack import ROOT, Mail, Stack, eventually

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def words_of(beginning):
    """The words after `docker compose` of the documented command that begins so."""
    line = re.search(rf"^docker compose ({re.escape(beginning)}.*?)(?: [<>] .*)?$", OPERATIONS, re.MULTILINE)
    return line[1].split()


class Operations(unittest.TestCase):
    def setUp(self):
        self.stack = Stack.shared()

    def open(self):
        mail = Mail()
        self.assertEqual(self.stack.curl(self.stack.direct + mail.pixel).status, 200)
        self.stack.recorded(mail)
        return mail

    def test_the_spool_of_a_pixel_that_will_not_run_again(self):
        stack, mail = self.stack, Mail()
        self.addCleanup(stack.up)
        stack.compose("stop", "recorder")
        self.assertEqual(stack.curl(stack.direct + mail.pixel).status, 200)
        stack.compose(*words_of("stop pixel"))
        stack.compose("start", "recorder")
        stack.compose(*words_of("run --rm spool drain"))
        self.assertEqual(stack.recorded(mail)["raw_open_events"], 1)
        self.assertEqual(stack.compose(*words_of("run --rm spool list")), "")

    def test_changed_database_passwords(self):
        stack = self.stack
        self.addCleanup(stack.up)
        stack.up(RECORDER_DB_PASSWORD="another", DASHBOARD_DB_PASSWORD="yet another")
        self.open()

    def test_a_new_dashboard_token_beside_the_old(self):
        stack = self.stack
        self.addCleanup(stack.up)
        stack.up(DASHBOARD_TOKEN="new", DASHBOARD_TOKEN_PREVIOUS=stack.token)
        for token in ["new", stack.token]:
            eventually(f"{token} is accepted", lambda token=token: stack.api("/dashboard/api/emails", token=token))

    def test_a_new_recorder_token_without_a_refused_batch(self):
        stack, old = self.stack, self.stack.settings["RECORDER_TOKEN"]
        self.addCleanup(stack.up)
        refused = 'email_tracker_recorder_batches_total{code="unauthenticated"} 0'
        both = {"RECORDER_TOKEN": "new", "RECORDER_TOKEN_PREVIOUS": old}
        for words, tokens in [(["recorder"], both), ([], both), ([], {"RECORDER_TOKEN": "new"})]:
            stack.up(*words, **tokens)
            self.open()
            metrics = stack.in_caddy("wget", "-q", "-O", "-", "http://recorder:9090/metrics")
            self.assertIn(refused, metrics.splitlines())

    def test_the_doctor_looks_from_inside(self):
        self.stack.compose(*words_of("--profile tools build"))
        # By its name, localhost, a container reaches itself alone, and says so; what is behind the name it sees.
        report = json.loads(self.stack.compose("run", "--rm", "doctor", "--json", check=False))
        checks = {check["name"]: check for check in report["checks"]}
        services = ["pixel-service", "recorder-service", "dashboard-service"]
        for name in ["database", "schema", "spool", *services]:
            self.assertEqual(checks[name]["outcome"], "ok", checks[name])
        # Whether there is room enough is this machine's affair; that it was looked up in the volume is the doctor's.
        self.assertIn("MiB free of", checks["spool-disk"]["found"], checks["spool-disk"])
        # By Caddy's name it sees all of it.
        report = json.loads(self.stack.compose("run", "--rm", "doctor", "--json", "http://caddy:8090", check=False))
        self.assertEqual(report["root_causes"], [], report)
        found = {check["name"]: check["outcome"] for check in report["checks"]}
        self.assertEqual((found["dashboard-recorder"], found["self-test"]), ("ok", "ok"))
