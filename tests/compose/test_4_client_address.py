"""The recorded address is the client's: seen from another network namespace, as from another machine."""

import os
import tempfile
import unittest
from pathlib import Path

from certificates import own_certificate
from nginx import Nginx
from stack import Mail, Stack, Unanswered, free_subnet_prefix, run

FORGED = ["-H", "X-Forwarded-For: 203.0.113.7", "-H", "X-Real-IP: 203.0.113.7", "-H", "Forwarded: for=203.0.113.7"]


class Machine:
    """A network namespace with one wire to this machine."""

    def __init__(self):
        self.name = f"et{os.getpid()}"
        # Private addresses: those that Caddy trusts on port 8090, and must not on the others.
        wire = free_subnet_prefix()
        self.address, self.host = f"{wire}.2", f"{wire}.1"
        inside, outside = f"{self.name}i", f"{self.name}o"
        run("ip", "netns", "add", self.name)
        try:
            run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", self.name)
            run("ip", "address", "add", f"{self.host}/30", "dev", outside)
            run("ip", "link", "set", outside, "up")
            for words in [["address", "add", f"{self.address}/30", "dev", inside], ["link", "set", inside, "up"]]:
                run("ip", "-n", self.name, *words)
        except Exception:
            self.remove()
            raise

    def remove(self):
        """Takes the wire's other end with it."""
        run("ip", "netns", "del", self.name)


class ClientAddress(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stack = Stack.shared()
        cls.machine = Machine()
        cls.addClassCleanup(cls.machine.remove)

    def recorded_address(self, url, *options, trust=None):
        """The address of a hit that the other machine made."""
        mail = Mail()
        name, port = url.partition("//")[2].split(":")
        to_host = ["--connect-to", f"{name}:{port}:{self.machine.host}:{port}"]
        answer = self.stack.curl(url + mail.pixel, *to_host, *options, trust=trust, namespace=self.machine.name)
        self.assertEqual(answer.status, 200, answer)
        self.stack.recorded(mail)
        return self.stack.hits(mail)[0]["ip_address"]

    def test_on_443(self):
        for version in ["--http1.1", "--http2"]:
            for forged in [[], FORGED, [*FORGED, *FORGED]]:
                with self.subTest(version, forged=forged):
                    self.assertEqual(self.recorded_address(self.stack.public, version, *forged), self.machine.address)

    def test_on_443_over_http3(self):
        mail = Mail()
        forged = "x-forwarded-for=203.0.113.7"
        self.stack.http3(mail, forged, address=self.machine.host, namespace=self.machine.name)
        self.stack.recorded(mail)
        self.assertEqual(self.stack.hits(mail)[0]["ip_address"], self.machine.address)

    def test_on_80(self):
        for forged in [[], FORGED]:
            with self.subTest(forged=forged):
                url = f"http://localhost:{self.stack.http}"
                self.assertEqual(self.recorded_address(url, *forged), self.machine.address)

    def test_8090_is_not_reachable_from_another_machine(self):
        url = f"http://{self.machine.host}:{self.stack.proxy}/health"
        with self.assertRaises(Unanswered):
            self.stack.curl(url, namespace=self.machine.name)

    def test_behind_the_nginx_example(self):
        with tempfile.TemporaryDirectory() as folder:
            chain, key, root = own_certificate(Path(folder), "nginx.example.com")
            nginx = Nginx(self.stack, folder, "nginx.example.com", chain, key)
            self.addCleanup(nginx.remove)
            for url in [f"https://nginx.example.com:{nginx.https}", f"http://nginx.example.com:{nginx.http}"]:
                for forged in [[], FORGED]:
                    with self.subTest(url, forged=forged):
                        self.assertEqual(self.recorded_address(url, *forged, trust=root), self.machine.address)

    def test_what_a_proxy_on_this_machine_says_counts_on_8090(self):
        mail = Mail()
        self.stack.curl(self.stack.direct + mail.pixel, "-H", "X-Forwarded-For: 192.0.2.1, 2001:db8::1")
        self.stack.recorded(mail)
        self.assertEqual(self.stack.hits(mail)[0]["ip_address"], "2001:db8::1")

    def test_its_country_is_known_unless_it_is_a_proxys(self):
        for agent, country in [("curl/8.5.0", "NL"), ("YahooMailProxy; https://help.yahoo.com/", None)]:
            with self.subTest(agent):
                mail = Mail()
                from_there = ["-H", "X-Forwarded-For: 193.0.6.139", "-A", agent]
                self.stack.curl(self.stack.direct + mail.pixel, *from_there)
                self.stack.recorded(mail)
                self.assertEqual(self.stack.hits(mail)[0]["geo_country"], country)
