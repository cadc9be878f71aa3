"""Each service's own metrics are what Prometheus reads."""

import unittest

from stack import Mail, Stack, run


class Metrics(unittest.TestCase):
    def test_promtool_accepts_every_metric(self):
        stack = Stack.shared()
        mail = Mail()
        stack.curl(stack.direct + mail.pixel)
        stack.recorded(mail)
        for service in ["pixel", "recorder", "dashboard"]:
            with self.subTest(service):
                text = stack.in_caddy("wget", "-q", "-O", "-", f"http://{service}:9090/metrics")
                self.assertIn("# TYPE", text)
                promtool = ["docker", "run", "--rm", "-i", "--entrypoint", "promtool", "prom/prometheus"]
                self.assertEqual(run(*promtool, "check", "metrics", input=text), "")
