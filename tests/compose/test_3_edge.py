"""What Caddy lets through, on which port and in which version of HTTP; and what it does not."""

import base64
import json
import unittest

from stack import GIF_BYTES, Mail, Stack

ROUTED = ["/dashboard", "/dashboard?tab=opens&email_id=x", "/dashboard/health", "/health"]
WITH_TOKEN = ["/metrics/gmail-proxy-latency", "/metrics/suppress-signals", "/metrics/suppression-debug"]
# The services' admin paths, and ways to write a path that a proxy and a server could read differently.
NOT_ROUTED = [
    *["/", "/live", "/ready", "/log-level", "/healthz", "/health/", "/dashboardx", "/t", "/config/"],
    *["/metrics", "/metrics/", "//metrics", "/metrics/x", "/./metrics", "/%6detrics", "/metrics%00"],
    *["/t/../metrics", "/t/%2e%2e/metrics", "/t/..%2fmetrics", "/dashboard/../metrics", "/dashboard/..%2Fmetrics"],
    *[
        "/metrics/suppress-signals/../../metrics",
        "/metrics/suppress-signals/x",
        "/email_tracker.recorder.v1.Recorder/Record",
    ],
]


class Edge(unittest.TestCase):
    def setUp(self):
        self.stack = Stack.shared()
        self.ways = [self.stack.public, self.stack.direct]

    def test_routes_what_the_contract_names(self):
        for base in self.ways:
            for path in ROUTED:
                with self.subTest(path, base=base):
                    self.assertEqual(self.stack.curl(base + path).status, 200)
            for path in WITH_TOKEN:
                with self.subTest(path, base=base):
                    self.assertEqual(self.stack.curl(base + path).status, 401)
                    self.assertIsInstance(
                        self.stack.api(path, base)["count" if "debug" not in path else "by_email"], int | dict
                    )

    def test_routes_nothing_else(self):
        for base in self.ways:
            for path in NOT_ROUTED:
                with self.subTest(path, base=base):
                    answer = self.stack.curl(base + path)
                    self.assertIn(answer.status, (400, 404))
                    # Caddy's own answer; a service's would say something.
                    self.assertNotIn(b"{", answer.body)

    def test_another_name_on_443_gets_nothing(self):
        answer = self.stack.curl(self.stack.public + "/health", "-H", "Host: elsewhere.example.com")
        self.assertEqual(answer.status, 404)

    def test_port_80_answers_pixels_and_redirects_the_rest(self):
        mail, base = Mail(), f"http://localhost:{self.stack.http}"
        answer = self.stack.curl(base + mail.pixel)
        self.assertEqual((answer.status, len(answer.body)), (200, GIF_BYTES))
        self.stack.recorded(mail)
        for path in ["/", "/dashboard?tab=opens", "/health", "/metrics", "/mark-suppress-next"]:
            with self.subTest(path):
                answer = self.stack.curl(base + path)
                self.assertEqual((answer.status, answer.headers["location"]), (308, f"https://localhost{path}"))

    def test_the_longest_token_and_a_long_agent_pass(self):
        # A recipient of many addresses, so that the token has its 16,384 characters exactly.
        fields = ["u" * 900, Mail().email_id, "", "2026-01-02T03:04:05Z", "s" * 900]
        fields[2] = "a" * (16_384 * 3 // 4 - len(json.dumps(fields).encode()))
        token = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()
        self.assertEqual(len(token), 16_384)
        for base in self.ways:
            for version in ["--http1.1", "--http2"]:
                with self.subTest(base=base, version=version):
                    answer = self.stack.curl(f"{base}/t/{token}.gif", version, "-A", "a" * 16_384)
                    self.assertEqual((answer.status, len(answer.body)), (200, GIF_BYTES))

    def test_headers_of_the_pixel_are_the_services_own(self):
        for base in self.ways:
            answer = self.stack.curl(base + Mail().pixel, "-H", "Accept-Encoding: gzip, br, zstd")
            self.assertEqual(answer.headers["content-length"], str(GIF_BYTES))
            self.assertEqual(answer.headers["cache-control"], "no-store, no-cache, must-revalidate, max-age=0")
            for absent in ["server", "via", "etag", "set-cookie", "content-encoding", "location"]:
                self.assertNotIn(absent, answer.headers)

    def test_http_1_2_and_3(self):
        url = self.stack.public + Mail().pixel
        self.assertEqual(self.stack.curl(url, "--http1.1").version, "1.1")
        answer = self.stack.curl(url, "--http2")
        self.assertEqual(answer.version, "2")
        self.assertIn("h3=", answer.headers["alt-svc"])

        mail = Mail()
        self.assertEqual(self.stack.http3(mail), f"200 {GIF_BYTES}")
        self.stack.recorded(mail)

    def test_caddy_logs_no_recipient(self):
        self.stack.compose("stop", "pixel")
        self.addCleanup(self.stack.up)
        mail = Mail()
        self.assertGreaterEqual(self.stack.curl(self.stack.direct + mail.pixel).status, 500)
        log = self.stack.compose("logs", "--no-color", "caddy")
        self.assertIn("http.log.error", log)
        self.assertNotIn(mail.pixel.removeprefix("/t/").removesuffix(".gif"), log)
