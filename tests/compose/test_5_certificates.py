"""Where the certificate comes from: each way is shown by a request whose client trusts that issuer alone."""

import tempfile
import unittest
from pathlib import Path

from certificates import own_certificate
from nginx import Nginx
from stack import GIF_BYTES, Mail, Stack, Unanswered, eventually

NAME = "track.example.com"


class Certificates(unittest.TestCase):
    def setUp(self):
        self.stack = Stack.shared()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def caddy_with(self, **settings):
        """Caddy alone is made anew; afterwards it is as before."""
        self.addCleanup(self.stack.up, "--no-deps", "caddy")
        self.stack.up("--no-deps", "caddy", **settings)

    def assert_trusted(self, root, name=NAME, port=None):
        port = port or self.stack.https
        url = f"https://{name}:{port}"
        to_here = ["--connect-to", f"{name}:{port}:127.0.0.1:{port}"]
        mail = Mail()
        answer = eventually("certificate", lambda: self.stack.curl(url + mail.pixel, *to_here, trust=root))
        self.assertEqual((answer.status, len(answer.body)), (200, GIF_BYTES))
        self.stack.recorded(mail)
        with self.assertRaises(Unanswered):
            self.stack.curl(url + mail.pixel, *to_here, trust="/etc/ssl/certs/ca-certificates.crt")

    def test_internal_for_localhost(self):
        self.assert_trusted(self.stack.root_certificate(), "localhost")

    def test_automatic_by_either_challenge(self):
        stack, profile = self.stack, ["--profile", "authority"]
        self.addCleanup(stack.compose, *profile, "rm", "-s", "-f", "-v", "authority")
        for challenge in ["http-01", "tls-alpn-01"]:
            with self.subTest(challenge):
                stack.compose(*profile, "up", "-d", "--wait", "--no-deps", "authority", CHALLENGE=challenge)
                root = stack.root_certificate("authority")
                # A name for each, so that the certificate of the one before is of no use.
                name = f"{challenge}.example.com"
                directory = "https://authority/acme/local/directory"
                self.caddy_with(DOMAIN=name, ACME_EMAIL="owner@example.com", ACME_CA=directory, ACME_CA_ROOT=root)
                self.assert_trusted(root, name)

    def test_files_of_ones_own(self):
        chain, key, root = own_certificate(self.folder, NAME)
        self.caddy_with(DOMAIN=NAME, TLS_CERT_FILE=chain, TLS_KEY_FILE=key)
        self.assert_trusted(root)

    def test_none_behind_the_nginx_example(self):
        chain, key, root = own_certificate(self.folder, NAME)
        nginx = Nginx(self.stack, self.folder, NAME, chain, key)
        self.addCleanup(nginx.remove)
        self.assert_trusted(root, port=nginx.https)
        redirect = self.stack.curl(f"http://127.0.0.1:{nginx.http}/dashboard", "-H", f"Host: {NAME}")
        self.assertEqual((redirect.status, redirect.headers["location"]), (308, f"https://{NAME}/dashboard"))
        token = "a" * 16_384
        to_here = ["--connect-to", f"{NAME}:{nginx.https}:127.0.0.1:{nginx.https}"]
        for version in ["--http1.1", "--http2"]:
            long = self.stack.curl(f"https://{NAME}:{nginx.https}/t/{token}.gif", version, *to_here, trust=root)
            self.assertEqual((long.status, len(long.body)), (200, GIF_BYTES))

    def test_a_missing_file_stops_up_with_its_name(self):
        missing = self.folder / "absent.pem"
        with self.assertRaisesRegex(Exception, "absent.pem"):
            self.caddy_with(DOMAIN=NAME, TLS_CERT_FILE=missing, TLS_KEY_FILE=missing)
