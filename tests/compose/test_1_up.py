"""What `docker compose up` asks for, publishes and allows."""

import json
import re
import unittest

from stack import ROOT, CommandFailed, Stack

SECRETS = ["DASHBOARD_TOKEN", "RECORDER_TOKEN", "POSTGRES_PASSWORD", "RECORDER_DB_PASSWORD", "DASHBOARD_DB_PASSWORD"]
SERVICES = ["caddy", "pixel", "recorder", "dashboard", "postgres"]


class Up(unittest.TestCase):
    def test_a_missing_setting_stops_up_with_its_name(self):
        stack = Stack()
        self.addCleanup(stack.down)
        for name in ["DOMAIN", *SECRETS]:
            for case in [{"without": [name]}, {name: ""}]:
                with self.subTest(name, case=case), self.assertRaisesRegex(CommandFailed, rf"\b{name}\b"):
                    stack.compose("up", "-d", **case)
        self.assertEqual(stack.compose("ps", "-a", "-q"), "")

    def test_each_setting_of_the_example_has_an_effect(self):
        stack = Stack()
        self.addCleanup(stack.down)
        example = (ROOT / ".env.example").read_text()
        required = re.findall(r"^([A-Z_]+)=$", example, re.MULTILINE)
        self.assertEqual(set(required), {"DOMAIN", *SECRETS})
        optional = re.findall(r"^#([A-Z_]+)=", example, re.MULTILINE)
        self.assertGreater(len(optional), 10)
        before = stack.compose("--profile", "*", "config")
        for name in [*required, *optional]:
            with self.subTest(name):
                # Without a slash it would be a volume's name.
                value = "/4711" if name.endswith("_DIR") else "4711"
                self.assertNotEqual(stack.compose("--profile", "*", "config", **{name: value}), before)

    def test_only_caddy_publishes_ports_and_reaches_out(self):
        stack = Stack.shared()
        for service in SERVICES:
            with self.subTest(service):
                of = stack.inspect(service)
                published = {port: on for port, on in of["NetworkSettings"]["Ports"].items() if on}
                networks = {name.removeprefix(stack.project + "_") for name in of["NetworkSettings"]["Networks"]}
                if service == "caddy":
                    hosts = {port: {at["HostIp"] for at in on} for port, on in published.items()}
                    every, own = {"0.0.0.0"}, {"127.0.0.1"}
                    self.assertEqual(hosts, {"80/tcp": every, "443/tcp": every, "443/udp": every, "8090/tcp": own})
                else:
                    self.assertEqual(published, {})
                    self.assertNotIn("outside", networks)
        config = json.loads(stack.compose("config", "--format", "json"))
        self.assertEqual({n for n, of in config["networks"].items() if not of.get("internal")}, {"outside"})

    def test_the_pixel_and_the_database_share_no_network(self):
        stack = Stack.shared()
        networks = [set(stack.inspect(service)["NetworkSettings"]["Networks"]) for service in ("pixel", "postgres")]
        self.assertEqual(networks[0] & networks[1], set())

    def test_containers_are_confined(self):
        stack = Stack.shared()
        for service in [*SERVICES, "migrate"]:
            with self.subTest(service):
                of = stack.inspect(service)
                host = of["HostConfig"]
                self.assertTrue(host["ReadonlyRootfs"])
                self.assertEqual(host["CapDrop"], ["ALL"])
                self.assertEqual(host["CapAdd"], ["CAP_NET_BIND_SERVICE"] if service == "caddy" else None)
                self.assertIn("no-new-privileges:true", host["SecurityOpt"])
                self.assertGreater(host["Memory"], 0)
                self.assertGreater(host["PidsLimit"], 0)
                if service != "caddy":
                    self.assertIn(of["Config"]["User"], ["65532:65532", "999:999"])
