"""What docs/operations.md tells an operator to type."""

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
