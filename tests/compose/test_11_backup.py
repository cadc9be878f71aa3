"""What docs/operations.md says about backups, up to the loss of everything but the backup."""

import json
import re
import unittest

from stack import Mail, Stack, eventually
from test_8_operations import words_of

LISTS = ["/dashboard/api/emails", "/dashboard/api/open-events", "/dashboard/api/open-events?include=all"]


class Backup(unittest.TestCase):
    def setUp(self):
        self.stack = Stack()
        self.addCleanup(self.stack.down)
        self.stack.up("--build")

    def get_pixel(self, mail, *headers):
        self.assertEqual(self.stack.curl(self.stack.direct + mail.pixel, *headers).status, 200)

    def lists(self):
        token = f"X-Tracker-Token: {self.stack.token}"
        answers = [self.stack.curl(self.stack.direct + path, "-H", token) for path in LISTS]
        self.assertEqual([answer.status for answer in answers], [200] * len(LISTS))
        return [answer.body for answer in answers]

    def test_everything_is_lost_but_the_backup(self):
        stack, opened, suppressed = self.stack, Mail(), Mail()
        mark = ["-H", "Content-Type: application/json", "-d", json.dumps({"email_id": suppressed.email_id})]
        self.assertEqual(stack.curl(stack.direct + "/mark-suppress-next", *mark).status, 200)
        self.get_pixel(suppressed)
        for agent in ["Chrome", "Chrome", "ggpht.com GoogleImageProxy"]:
            self.get_pixel(opened, "-A", agent)
        stack.recorded(opened, raw=3)
        self.assertEqual(stack.recorded(suppressed)["unique_open_count"], 0)
        before = self.lists()
        made = stack.compose(*words_of("exec -T backup email-tracker backup"))
        self.assertRegex(made, r"^/backups/email-tracker-\w+\.dump: 2 emails, 4 hits and 1 marks")
        told = stack.compose("exec", "-T", "backup", "cat", "/metrics/email_tracker_backup.prom")
        self.assertTrue(re.search(r"^email_tracker_backup_last_success_timestamp_seconds \d", told, re.MULTILINE), told)

        stack.compose("down", "-v", "-t", "5")
        stack.up()
        self.assertEqual(stack.api("/dashboard/api/emails")["items"], [])
        self.get_pixel(Mail())
        eventually("a fact of the new life", lambda: stack.api("/dashboard/api/emails")["items"])
        stack.compose(*words_of("run --rm backup restore"))
        eventually("the lists are the same, byte by byte", lambda: self.lists() == before)
        after = Mail()
        self.get_pixel(after)
        self.assertEqual(stack.recorded(after)["unique_open_count"], 1)

        # In the order of the page the backup is back before anything else runs.
        stack.compose("down", "-v", "-t", "5")
        stack.compose(*words_of("run --build --rm backup restore"))
        stack.up()
        eventually("the lists are the same, byte by byte", lambda: self.lists() == before)
