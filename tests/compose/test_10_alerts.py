"""Rules and dashboard, and each alert beside the fault that it is for."""

import json
import os
import re
import shutil
import signal
import socket
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from monitoring import OBSERVABILITY, Monitored
from stack import ROOT, CommandFailed, eventually, run

ALERTS = (OBSERVABILITY / "rules" / "alerts.yml").read_text()
RECORDING = (OBSERVABILITY / "rules" / "recording.yml").read_text()
DASHBOARD = json.loads((OBSERVABILITY / "grafana" / "dashboards" / "email-tracker.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
NAMES = re.findall(r"- alert: (\w+)", ALERTS)

# No test here makes a disk slow.
NOT_PLANTED = {"SpoolDiskSlow"}


def expressions():
    """Every expression that a panel asks, as Grafana sends it with its variables filled in."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "20s").replace("$instance", ".*")


class Rules(unittest.TestCase):
    def test_promtool_accepts_rules_and_configurations(self):
        for file in (OBSERVABILITY / "rules").iterdir():
            self.assertIn("SUCCESS", run("promtool", "check", "rules", file))
        run("promtool", "check", "config", OBSERVABILITY / "prometheus-native.yml")
        run("promtool", "check", "config", "--syntax-only", OBSERVABILITY / "prometheus.yml")

    def test_promtool_finds_each_alert_firing_when_it_should(self):
        files = sorted((OBSERVABILITY / "tests").iterdir())
        run("promtool", "test", "rules", *files, timeout=600)
        cases = re.findall(
            r'alertname="(\w+)", alertstate="firing"}\)\s+eval_time: \w+\s+exp_samples: (\[\]|\[\{)',
            "".join(file.read_text() for file in files),
        )
        self.assertEqual({name for name, wanted in cases if wanted == "[]"}, set(NAMES), "no case that is quiet")
        self.assertEqual({name for name, wanted in cases if wanted != "[]"}, set(NAMES), "no case that fires")

    def test_each_alert_leads_to_a_section_of_the_operations_page(self):
        sections = re.findall(r"^### (EmailTracker\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
        self.assertEqual(sections, NAMES)
        links = re.findall(r"runbook_url: docs/operations.md#(\w+)", ALERTS)
        self.assertEqual(links, [name.lower() for name in NAMES])
        for word in ["summary:", "description:", "severity: "]:
            self.assertEqual(ALERTS.count(word), len(NAMES), word)

    def test_rules_and_dashboard_ask_for_documented_metrics_alone(self):
        documented = re.findall(r"^\| `(\w+)` \| (\w+)", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
        self.assertGreater(len(documented), 40)
        known = {name for name, _ in documented} | set(re.findall(r"record: (\S+)", RECORDING))
        for name, kind in documented:
            known |= {f"{name}{part}" for part in ("_bucket", "_sum", "_count") if kind == "histogram"}
        texts = [ALERTS, RECORDING, *(expression for _, expression in expressions())]
        # Names in a comment or a text are checked as well.
        asked = {name for text in texts for name in re.findall(r"\b(?:email_tracker|process|probe)[_:][\w:]*\w", text)}
        self.assertEqual(asked - known - {"email_tracker_backup"}, set())


class Dashboard(unittest.TestCase):
    """Grafana cannot be had here: what can be known of its file without it."""

    def test_the_dashboard_is_what_its_generator_writes(self):
        run(OBSERVABILITY / "grafana" / "make-dashboard", "--check")

    def test_panels_have_places_and_sources_of_their_own(self):
        self.assertGreater(len(PANELS), 25)
        self.assertEqual(len({panel["id"] for panel in DASHBOARD["panels"]}), len(DASHBOARD["panels"]))
        self.assertEqual(len({panel["title"] for panel in PANELS if panel["gridPos"]["h"] == 4}), 6)
        taken = set()
        for panel in DASHBOARD["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertFalse(cells & taken, panel["title"])
            self.assertLessEqual(at["x"] + at["w"], 24)
            taken |= cells
        for panel in PANELS:
            with self.subTest(panel["title"]):
                self.assertTrue(panel["description"])
                self.assertEqual(panel["datasource"]["uid"], "${source}")
                refs = [target["refId"] for target in panel["targets"]]
                self.assertEqual(len(refs), len(set(refs)))
                self.assertIn("unit", panel["fieldConfig"]["defaults"])
        variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS))) - {"__rate_interval"}
        self.assertEqual(used, variables)


class Profile(unittest.TestCase):
    def setUp(self):
        self.stack = Monitored()
        self.addCleanup(self.stack.down)

    def test_it_is_for_this_machine_alone_and_confined(self):
        config = json.loads(self.stack.compose("--profile", "monitoring", "config", "--format", "json"))
        of_profile = {name: of for name, of in config["services"].items() if of.get("profiles") == ["monitoring"]}
        self.assertEqual(set(of_profile), {"prometheus", "grafana", "blackbox", "node-exporter"})
        for name, of in of_profile.items():
            with self.subTest(name):
                published = {port["host_ip"] for port in of.get("ports", [])}
                self.assertEqual(published, {"127.0.0.1"} if name in ("prometheus", "grafana") else set())
                self.assertTrue(of["read_only"])
                self.assertEqual(of["cap_drop"], ["ALL"])
                self.assertNotIn(of["user"].split(":")[0], ("0", "root"))
                self.assertNotIn("database", of["networks"])
                self.assertNotIn("outside", of["networks"])
        # Caddy cannot lead to what it shares no network with, and leads to nothing that it does not name.
        self.assertEqual(set(of_profile["grafana"]["networks"]), {"monitoring"})
        self.assertNotIn("monitoring", config["services"]["caddy"]["networks"])
        caddyfile = (ROOT / "Caddyfile").read_text()
        for word in ["prometheus", "grafana", "blackbox", "node-exporter", ":9090"]:
            self.assertNotIn(word, caddyfile)

    def test_prometheus_starts_as_shipped(self):
        stack = self.stack
        stack.overrides = []
        stack.compose("--profile", "monitoring", "up", "-d", "--wait", "--no-deps", "prometheus")
        self.assertEqual(stack.inspect("prometheus")["Config"]["User"], "65534:65534")
        loaded = [rule["name"] for group in stack.get("rules")["groups"] for rule in group["rules"]]
        self.assertEqual(set(loaded), {*NAMES, *re.findall(r"record: (\S+)", RECORDING)})

        def jobs():
            return {target["scrapePool"] for target in stack.get("targets")["activeTargets"]}

        # The services are found by name, and none is there.
        eventually("it knows its targets", lambda: jobs() == {"email-tracker-public", "email-tracker-backup"})

    def test_grafana_does_not_start_without_a_password_of_the_user(self):
        stack = self.stack
        run_grafana = ["--profile", "monitoring", "run", "--rm", "--no-deps", "-T", "grafana"]
        with self.assertRaisesRegex(CommandFailed, "set GRAFANA_PASSWORD in .env"):
            stack.compose(*run_grafana)
        # Past the question, what is missing here is Grafana.
        with self.assertRaisesRegex(CommandFailed, "/run.sh"):
            stack.compose(*run_grafana, GRAFANA_PASSWORD="x")


class Faults(unittest.TestCase):
    """Everything runs; one thing after the other breaks and is mended."""

    @classmethod
    def setUpClass(cls):
        cls.stack = Monitored(SPOOL_MAX_BYTES="512KiB")
        cls.addClassCleanup(cls.stack.down)
        cls.stack.start()
        cls.planted = set()

    def before(self, *names):
        """Before a fault is planted: none of its alerts fires, for whatever was before."""
        self.stack.quiet(*names)

    def fires(self, *names, **more):
        self.stack.fires(*names, **more)
        self.planted.update(names)

    def process(self, service):
        """The process of a service, as this machine counts; its parent is the container's init."""
        init = self.stack.inspect(service)["State"]["Pid"]
        return int(Path(f"/proc/{init}/task/{init}/children").read_text().split()[0])

    @staticmethod
    def sizes(folder):
        """How much is written in each file of a folder, in bytes; zeros behind it are only room for more."""
        files = run("find", folder, "-type", "f").splitlines()
        return {file: len(Path(file).read_bytes().rstrip(b"\0")) for file in files}

    def stop(self, *services):
        self.stack.compose("stop", "-t", "10", *services)

    def start(self, *services):
        self.stack.compose("start", *services)

    def psql(self, command):
        """What the database answers to its owner."""
        words = ["-h", "127.0.0.1", "-U", "email_tracker_owner", "-qAt", "-c", command, "email_tracker"]
        return self.stack.compose("exec", "-T", "postgres", "psql", *words)

    def test_01_a_missing_backup_and_a_certificate_that_ends_soon(self):
        # Caddy's own authority makes them for twelve hours.
        self.fires("BackupMissing", "CertificateExpires", "CertificateExpiresNow")
        self.stack.backup_at(time.time() - 3 * 86400)
        self.fires("BackupTooOld")
        self.stack.backup_at(time.time())
        self.stack.quiet("BackupMissing", "BackupTooOld")

    def test_02_nothing_else_fires_while_all_is_well(self):
        stack = self.stack
        for _ in range(5):
            stack.use_everything()
        still = {"CertificateExpires", "CertificateExpiresNow"}
        stack.quiet(*(name.removeprefix("EmailTracker") for name in NAMES if name.removeprefix("EmailTracker") not in still))
        self.assertEqual(stack.firing(), still)
        up = {(one["metric"]["job"], one["metric"].get("service")): one["value"][1] for one in stack.query("up")}
        services = {("email-tracker", name): "1" for name in ("pixel", "recorder", "dashboard")}
        self.assertEqual(up, services | {("email-tracker-public", None): "1", ("email-tracker-backup", None): "1"})

    def test_03_each_panel_has_something_to_show(self):
        stack = self.stack
        missing = dict.fromkeys(expressions())

        def use_and_ask():
            stack.use_everything()
            for one in list(missing):
                if any(series["value"][1] != "NaN" for series in stack.query(one[1])):
                    del missing[one]
            self.assertFalse(missing, f"{len(missing)} expressions without a series")
            return True

        eventually("each expression has a series", use_and_ask)

    def test_04_a_recorder_that_is_away(self):
        stack = self.stack
        self.before("RecorderDown", "BacklogOld", "BacklogGrows", "SpoolNearlyFull", "FactsLost")
        self.stop("recorder")
        stack.hit(600)
        self.fires("RecorderDown", "BacklogOld")
        self.fires("BacklogGrows", "SpoolNearlyFull", meanwhile=lambda: stack.hit(50))
        self.fires("FactsLost", meanwhile=lambda: stack.hit(50))
        self.start("recorder")
        stack.quiet("RecorderDown", "BacklogGrows", "BacklogOld", "SpoolNearlyFull")

    def test_05_a_spool_with_corrupt_bytes(self):
        stack = self.stack
        self.before("SpoolCorrupt")
        self.stop("recorder")
        volume = json.loads(run("docker", "volume", "inspect", f"{stack.project}_spool"))[0]["Mountpoint"]
        # Only what is written from here on is certain to be read again.
        before = self.sizes(volume)
        stack.hit(200)
        self.stop("pixel")
        grown = {file: (before.get(file, 0), size) for file, size in self.sizes(volume).items()}
        segment, (start, end) = max(grown.items(), key=lambda of: of[1][1] - of[1][0])
        with open(segment, "r+b") as file:
            file.seek((start + end) // 2)
            byte = file.read(1)[0]
            file.seek((start + end) // 2)
            file.write(bytes([byte ^ 0xFF]))
        stack.up()
        self.fires("SpoolCorrupt")

    def test_06_a_database_that_is_away(self):
        stack = self.stack
        self.before("RecorderErrors", "DashboardErrors", "DatabaseErrors")
        self.stop("postgres")

        def use():
            stack.hit(1)
            stack.ask("/dashboard/api/emails")

        self.fires("RecorderErrors", "DashboardErrors", "DatabaseErrors", meanwhile=use)
        stack.up()
        stack.quiet("RecorderErrors", "DashboardErrors", "DatabaseErrors", meanwhile=use)

    def test_07_a_database_without_connections(self):
        stack = self.stack
        self.before("DatabaseConnectionsExhausted")
        psql = self.psql
        psql("alter role email_tracker_recorder connection limit 0")
        self.addCleanup(psql, "alter role email_tracker_recorder connection limit -1")
        psql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'email_tracker_recorder'")
        self.fires("DatabaseConnectionsExhausted", meanwhile=lambda: stack.hit(1))

    def test_08_a_pixel_with_a_clock_that_is_days_ahead(self):
        stack = self.stack
        self.before("FactsRefused")
        self.addCleanup(stack.up)
        self.addCleanup(stack.with_more)
        library = run("sh", "-c", "ls /usr/lib/*/faketime/libfaketimeMT.so.1").strip()
        stack.with_more(
            "services:\n  pixel:\n"
            "    environment: {LD_PRELOAD: /faketime.so, FAKETIME: +3d, FAKETIME_DONT_FAKE_MONOTONIC: '1'}\n"
            f"    volumes: [\"{library}:/faketime.so:ro\"]\n"
        )
        stack.up()
        self.fires("FactsRefused", meanwhile=lambda: stack.hit(1))

    def test_09_a_pixel_with_another_token(self):
        stack = self.stack
        self.before("ForwardingRefused")
        self.addCleanup(stack.up)
        self.addCleanup(stack.with_more)
        stack.with_more("services: {pixel: {environment: {RECORDER_TOKEN: another}}}\n")
        stack.up()
        self.fires("ForwardingRefused", meanwhile=lambda: stack.hit(1))

    def test_10_a_process_without_file_descriptors(self):
        stack = self.stack
        self.before("ConnectionsNotAccepted")
        self.addCleanup(stack.up)
        self.addCleanup(stack.with_more)
        stack.with_more("services: {dashboard: {ulimits: {nofile: 64}}}\n")
        stack.up()
        eventually("Prometheus has asked the new one", lambda: stack.query('process_max_fds{service="dashboard"} == 64'))
        networks = stack.inspect("dashboard")["NetworkSettings"]["Networks"]
        address = networks[f"{stack.project}_services"]["IPAddress"]
        for _ in range(100):
            self.addCleanup(socket.create_connection((address, 8082), timeout=10).close)
        self.fires("ConnectionsNotAccepted")

    def test_11_a_dashboard_that_does_not_answer(self):
        self.before("DashboardDown", "InstanceDown")
        pid = self.process("dashboard")
        self.addCleanup(os.kill, pid, signal.SIGCONT)
        os.kill(pid, signal.SIGSTOP)
        self.fires("DashboardDown", "InstanceDown")

    def test_12_a_pixel_that_is_away(self):
        self.before("PixelDown", "PublicAddressFails")
        self.stop("pixel")
        self.addCleanup(self.start, "pixel")
        self.fires("PixelDown", "PublicAddressFails")

    def test_13_a_geoip_database_that_breaks(self):
        stack = self.stack
        self.before("GeoipRefused")
        folder = Path(tempfile.mkdtemp(prefix="geoip", dir=stack.folder.name))
        folder.chmod(0o755)
        file = folder / "own.mmdb"
        shutil.copy(ROOT / "services" / "recorder" / "data" / "geo" / "countries.mmdb", file)
        stack.settings |= {"GEOIP_DIR": folder, "GEOIP_DATABASE": "/geoip/own.mmdb"}
        stack.up()
        whole = file.read_bytes()
        for content in (whole[:-100], whole):
            (folder / "new").write_bytes(content)
            (folder / "new").rename(file)
            if content != whole:
                self.fires("GeoipRefused")
        stack.quiet("GeoipRefused")

    def test_14_somebody_who_guesses_the_token(self):
        stack = self.stack
        self.before("WrongTokens")

        def guess(_):
            return stack.curl(stack.direct + "/dashboard/api/emails", "-H", "X-Tracker-Token: wrong").status

        def guess_often():
            # At once, for each has to wait for its answer.
            with ThreadPoolExecutor(20) as pool:
                self.assertEqual(set(pool.map(guess, range(40))), {401})

        self.fires("WrongTokens", meanwhile=guess_often)
        stack.quiet("WrongTokens")

    def test_15_a_webhook_that_answers_500(self):
        stack = self.stack
        self.before("WebhookFails", "WebhookEventsSetAside")
        stack.settings["RECEIVER_STATUS"] = 500
        stack.up("--no-deps", "receiver")
        stack.hit(3)
        self.fires("WebhookFails")
        # As if it had failed for longer than patience_hours.
        self.assertEqual(self.psql("select count(*) from webhook_events"), "3\n")
        self.psql("update webhook_events set queued_at = queued_at - interval '73 hours'")
        self.fires("WebhookEventsSetAside")
        stack.settings["RECEIVER_STATUS"] = 200
        stack.up("--no-deps", "receiver")
        # The command of its section of the operations page.
        stack.compose("run", "--rm", "webhooks", "resend")
        stack.quiet("WebhookFails", "WebhookEventsSetAside")
        # Whoever was not there yet when it was asked first is asked again somewhat later.
        waiting = "select count(*) from webhook_events"
        eventually("all are delivered", lambda: self.psql(waiting) == "0\n", seconds=300)

    def test_16_all_alerts_were_seen_but_those_whose_fault_is_not_planted(self):
        names = {name.removeprefix("EmailTracker") for name in NAMES}
        self.assertEqual(names - self.planted, NOT_PLANTED)
