"""From the pixel to the dashboard, through each way in; through restarts and crashes."""

import json
import os
import signal
import unittest

from stack import GIF_BYTES, Mail, Stack, eventually

EVERY_SERVICE = ["caddy", "pixel", "recorder", "dashboard", "postgres"]


class Opens(unittest.TestCase):
    def setUp(self):
        self.stack = Stack.shared()

    def get_pixel(self, base, mail, agent="Reader/1"):
        answer = self.stack.curl(base + mail.pixel, "-A", agent)
        self.assertEqual((answer.status, answer.headers.get("content-type")), (200, "image/gif"), answer)
        self.assertEqual(len(answer.body), GIF_BYTES)

    def mark(self, base, mail):
        headers = ["-H", "Content-Type: application/json", "-H", "Origin: chrome-extension://abc"]
        return self.stack.curl(base + "/mark-suppress-next", *headers, "-d", json.dumps({"email_id": mail.email_id}))

    def sequence(self, base):
        """Open, repeat, mark and view by the sender: the acceptance of the contract's first page."""
        stack, mail = self.stack, Mail()
        self.get_pixel(base, mail)
        row = stack.recorded(mail, base=base)
        self.assertEqual((row["unique_open_count"], row["recipient"]), (1, mail.recipient))

        self.get_pixel(base, mail)
        row = stack.recorded(mail, raw=2, base=base)
        self.assertEqual((row["unique_open_count"], row["raw_open_events"]), (1, 2))

        answer = self.mark(base, mail)
        self.assertEqual((answer.status, answer.json()["ok"], answer.json()["email_id"]), (200, True, mail.email_id))
        self.get_pixel(base, mail, agent="Sender/1")
        row = stack.recorded(mail, raw=3, base=base)
        self.assertEqual((row["unique_open_count"], row["raw_open_events"]), (1, 3))
        self.assertEqual(stack.hits(mail)[0]["suppression_reason"], "mark_suppress_next")
        return mail

    def assert_kept(self, *mails):
        def all_there():
            return all((row := self.stack.email(mail)) and row["raw_open_events"] == 3 for mail in mails)

        eventually("emails from before are there again", all_there)

    def test_1_over_https(self):
        self.sequence(self.stack.public)

    def test_2_through_a_proxy_of_ones_own(self):
        self.sequence(self.stack.direct)

    def test_3_the_dashboard_asks_for_its_token(self):
        for token in ["", "wrong"]:
            answer = self.stack.curl(self.stack.public + "/dashboard/api/emails", "-H", f"X-Tracker-Token: {token}")
            self.assertEqual((answer.status, answer.json()["error"]), (401, "Unauthorized"))

    def test_4_a_restart_keeps_all(self):
        mail = self.sequence(self.stack.direct)
        self.stack.compose("restart")
        self.assert_kept(mail)
        self.sequence(self.stack.public)

    def test_5_down_and_up_keep_all(self):
        mail = self.sequence(self.stack.direct)
        self.stack.compose("down")
        self.stack.up()
        self.assert_kept(mail)
        self.sequence(self.stack.public)

    def test_6_all_processes_die_at_once_and_come_back_without_compose(self):
        """As after a power cut: the engine starts what was running, in any order, and nobody says `up`."""
        mail, last = self.sequence(self.stack.direct), Mail()
        self.get_pixel(self.stack.direct, last)
        before = {service: self.stack.inspect(service) for service in EVERY_SERVICE}
        for state in before.values():
            self.assertGreater(state["State"]["Pid"], 1)
            os.kill(state["State"]["Pid"], signal.SIGKILL)

        def all_healthy():
            now = [self.stack.inspect(service) for service in EVERY_SERVICE]
            again = all(
                of["RestartCount"] > before[name]["RestartCount"] for name, of in zip(EVERY_SERVICE, now, strict=True)
            )
            return again and all(of["State"].get("Health", {}).get("Status") == "healthy" for of in now)

        eventually("every service is healthy again", all_healthy, seconds=120)
        self.assert_kept(mail)
        self.assertEqual(self.stack.recorded(last)["raw_open_events"], 1)
        self.sequence(self.stack.public)

    def test_7_pixels_are_answered_and_kept_while_recorder_and_database_are_dead(self):
        stack, mails = self.stack, [Mail() for _ in range(100)]
        stack.compose("kill", "-s", "KILL", "recorder", "postgres")
        for mail in mails:
            self.get_pixel(stack.direct, mail)
        self.assertEqual(stack.curl(stack.direct + "/health").json(), {"status": "ok", "ok": True})
        eventually("dashboard says so", lambda: stack.curl(stack.direct + "/dashboard/health").status == 503)

        stack.up()
        wanted = {mail.email_id for mail in mails}

        def recorded():
            items = stack.api("/dashboard/api/emails")["items"]
            return len([item for item in items if item["email_id"] in wanted and item["raw_open_events"]]) == len(
                wanted
            )

        eventually("all 100 are recorded", recorded)
        rows = [row for row in stack.api("/dashboard/api/emails")["items"] if row["email_id"] in wanted]
        self.assertEqual({(row["unique_open_count"], row["raw_open_events"]) for row in rows}, {(1, 1)})
