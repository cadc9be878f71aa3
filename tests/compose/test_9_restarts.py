"""Every service is restarted under load, one after the other: each request is answered, and recorded once."""

import re
import unittest

from load import Load
from stack import ROOT, Stack, eventually, inspect_container, run

BEHIND_THE_PIXEL = ["recorder", "dashboard", "postgres"]


class Restarts(unittest.TestCase):
    def setUp(self):
        self.stack = Stack.shared()

    def restart(self, load, service):
        """Stops it by SIGTERM, which it must obey in time, and starts it again."""
        self.stack.compose("stop", service)
        code = self.stack.inspect(service)["State"]["ExitCode"]
        if code != 0:
            self.fail(f"{service} ended with {code}: {self.stack.logs(service)}")
        self.stack.up("--no-deps", service)
        load.goes_on()

    def unsent(self, pixel):
        """How many facts wait in a pixel's spool."""
        networks = self.stack.inspect(pixel)["NetworkSettings"]["Networks"]
        address = networks[f"{self.stack.project}_services"]["IPAddress"]
        metrics = self.stack.in_caddy("wget", "-q", "-O", "-", f"http://{address}:9090/metrics")
        return int(re.search(r"^email_tracker_pixel_spool_records (\d+)$", metrics, re.MULTILINE)[1])

    def assert_all_recorded_once(self, load, pixels):
        self.assertEqual(load.failures, [])
        for pixel in pixels:
            eventually(f"{pixel} has delivered all", lambda pixel=pixel: self.unsent(pixel) == 0)
        answered = set().union(*load.answered)
        stored = load.stored()
        self.assertEqual(answered - stored.keys(), set(), "answered, not recorded")
        self.assertEqual(stored.keys() - answered, set(), "recorded, not answered")
        self.assertEqual({nonce: times for nonce, times in stored.items() if times != 1}, {})
        self.assertGreater(len(answered), 500)

    def test_1_one_pixel(self):
        """Caddy holds what comes while the pixel is away."""
        stack = self.stack
        with Load(stack) as load:
            for service in ["pixel", *BEHIND_THE_PIXEL]:
                self.restart(load, service)
            stack.compose("restart", "pixel")
            load.goes_on()
            # A pixel that cannot deliver at its end is not away for longer.
            stack.compose("stop", "recorder", "postgres")
            load.goes_on()
            self.restart(load, "pixel")
            stack.up()
        self.assert_all_recorded_once(load, ["pixel"])

    def test_2_two_pixels(self):
        """While one is away the other one answers."""
        stack, pixels = self.stack, ["pixel", "pixel-2"]
        self.with_second_pixel()
        addresses = stack.in_caddy("getent", "ahostsv4", "pixel")
        self.assertEqual(len(set(re.findall(r"^\S+", addresses, re.MULTILINE))), 2, addresses)
        with Load(stack) as load:
            for service in [*pixels, *BEHIND_THE_PIXEL]:
                self.restart(load, service)
            before = [stack.container(pixel) for pixel in pixels]
            for pixel in pixels:
                stack.up("--no-deps", "--force-recreate", pixel)
                load.goes_on()
            stack.up("--no-deps", "--force-recreate", *pixels, "recorder", "dashboard")
            load.goes_on()
            self.assertEqual(set(before) & {stack.container(pixel) for pixel in pixels}, set())
        self.assert_all_recorded_once(load, pixels)

    def with_second_pixel(self):
        override = ROOT / "docker-compose.two-pixels.yml"
        self.stack.overrides.append(override)

        def remove():
            self.stack.compose("rm", "-s", "-f", "pixel-2")
            run("docker", "volume", "rm", f"{self.stack.project}_spool-2")
            self.stack.overrides.remove(override)

        self.addCleanup(remove)
        self.stack.up("--build", "--no-deps", "pixel-2")

    def test_3_two_recorders(self):
        """The pixel finds both, and one of them may be restarted while the other records."""
        stack = self.stack
        self.addCleanup(stack.up, "--no-deps", "--scale", "recorder=1", "recorder")
        stack.up("--no-deps", "--scale", "recorder=2", "recorder")
        containers = stack.compose("ps", "-q", "recorder").split()
        self.assertEqual(len(containers), 2)

        def batches(container):
            networks = inspect_container(container)["NetworkSettings"]["Networks"]
            address = networks[f"{stack.project}_services"]["IPAddress"]
            metrics = stack.in_caddy("wget", "-q", "-O", "-", f"http://{address}:9090/metrics")
            return sum(map(int, re.findall(r"^email_tracker_recorder_batches_total\S* (\d+)$", metrics, re.MULTILINE)))

        with Load(stack) as load:
            before = {container: batches(container) for container in containers}
            for container in containers:
                eventually("both are sent batches", lambda it=container: batches(it) > before[it] + 10)
            for container in containers:
                run("docker", "restart", container)
                eventually("it is sent batches again", lambda it=container: batches(it) > 10)
        self.assert_all_recorded_once(load, ["pixel"])
