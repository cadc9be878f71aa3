"""A stack with Prometheus beside it, whose rules are the repository's with short times."""

import json
import re
import shutil
import tempfile
import urllib.parse
import urllib.request
from http.client import HTTPConnection
from pathlib import Path

from stack import HERE, ROOT, Mail, Stack, eventually, free_port, run

OBSERVABILITY = ROOT / "observability"

# How the copy differs: what takes minutes takes seconds.
SHORTER = [
    (r"scrape_interval: 15s", "scrape_interval: 2s"),
    # A probe may take as long.
    (r"scrape_interval: 1m", "scrape_interval: 5s"),
    (r"evaluation_interval: \w+", "evaluation_interval: 1s"),
    (r"refresh_interval: \w+", "refresh_interval: 1s"),
    (r"for: [1-9]\w*", "for: 1s"),
    (r"\[(5|10)m\]", "[20s]"),
    (r"\[1h\]|offset 1h", lambda found: found[0].replace("1h", "2m")),
    # The oldest fact that waits.
    (r"> 900", "> 5"),
]


class Monitored(Stack):
    """A stack of its own, with the profile `monitoring`."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.copy = Path(tempfile.mkdtemp(prefix="observability", dir=self.folder.name))
        self.prometheus = free_port()
        self.settings |= {"PROMETHEUS_PORT": self.prometheus, "OBSERVABILITY": self.copy, "GRAFANA_PORT": free_port()}
        targets = Path(self.folder.name) / "webhooks.json"
        target = {"name": "chat", "url": "http://receiver:8080/", "format": "slack", "events": ["first_open"]}
        targets.write_text(json.dumps([target]))
        self.settings |= {"WEBHOOKS_FILE": targets, "WEBHOOK_PRIVATE_NETWORKS": f"{self.settings['SUBNET_PREFIX']}.32/28"}
        self.own = [ROOT / "docker-compose.webhooks.yml", HERE / "monitoring.yml"]
        self.overrides = self.own
        self.more = Path(self.folder.name) / "more.yml"
        shutil.copytree(OBSERVABILITY, self.copy, dirs_exist_ok=True)
        seen = set()
        for file in [self.copy / "prometheus.yml", *(self.copy / "rules").iterdir()]:
            text = file.read_text()
            for pattern, short in SHORTER:
                text, count = re.subn(pattern, short, text)
                seen |= {pattern} if count else set()
            file.write_text(text)
        assert seen == {pattern for pattern, _ in SHORTER}, "a time is no longer where it was"
        # Containers run as other users.
        Path(self.folder.name).chmod(0o755)
        self.copy.chmod(0o755)

    def start(self):
        """Everything but Grafana, which cannot be had here; the exporters trust the stack's own authority."""
        self.up("--build")
        shutil.copy(self.root_certificate(), self.copy / "root.pem")
        (self.copy / "root.pem").chmod(0o644)
        blackbox = self.copy / "blackbox.yml"
        blackbox.write_text(blackbox.read_text() + "      tls_config: {ca_file: /etc/email-tracker/root.pem}\n")
        self.compose("--profile", "monitoring", "up", "-d", "--build", "--wait", "prometheus", "blackbox", "node-exporter")

    def with_more(self, text=None):
        """What is added to the compose files from now on; None: nothing."""
        self.overrides = self.own
        if text is not None:
            self.more.write_text(text)
            self.overrides = [*self.own, self.more]

    def backup_at(self, when):
        """Leaves what `email-tracker backup` leaves after it succeeded."""
        name = "email_tracker_backup_last_success_timestamp_seconds"
        text = f"# HELP {name} When the last backup succeeded\n# TYPE {name} gauge\n{name} {when}\n"
        volume = f"{self.project}_metrics:/metrics"
        write = ["sh", "-c", "cat > /metrics/email_tracker_backup.prom && chmod 644 /metrics/*"]
        run("docker", "run", "--rm", "-i", "-v", volume, "debian:bookworm-slim", *write, input=text)

    # --- Load

    def hit(self, count):
        """So many hits, each of another mail, through the port for a proxy."""
        connection = HTTPConnection("127.0.0.1", self.proxy, timeout=60)
        for _ in range(count):
            connection.request("GET", Mail().pixel)
            answer = connection.getresponse()
            assert answer.status == 200, answer.status
            answer.read()
        connection.close()

    def ask(self, path):
        """The status of an answer of the dashboard."""
        return self.curl(self.direct + path, "-H", f"X-Tracker-Token: {self.token}").status

    def use_everything(self):
        """Each kind of request once."""
        self.hit(3)
        self.curl(self.direct + "/t/none.gif")
        self.curl(self.direct + "/mark-suppress-next", "--json", json.dumps({"email_id": Mail().email_id}))
        for path in ["/dashboard/api/emails", "/dashboard/api/open-events", "/dashboard"]:
            self.ask(path)
        for path in ["gmail-proxy-latency", "suppress-signals", "suppression-debug"]:
            self.ask(f"/metrics/{path}")

    # --- Prometheus

    def get(self, what):
        """An answer of Prometheus's API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.prometheus}/api/v1/{what}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression):
        """What Prometheus answers now: a list of series."""
        return self.get("query?" + urllib.parse.urlencode({"query": expression}))["result"]

    def alerts(self):
        """The alerts that fire, each with its labels and texts."""
        alerts = [alert for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"]
        for alert in alerts:
            # What Prometheus puts where a template fails.
            assert "<error" not in str(alert["annotations"]) and "<no value>" not in str(alert["annotations"]), alert
        return alerts

    def firing(self):
        """Their names, without what they have in common."""
        return {alert["labels"]["alertname"].removeprefix("EmailTracker") for alert in self.alerts()}

    def fires(self, *names, meanwhile=lambda: None):
        """Waits until these alerts have fired; `meanwhile` is done again and again."""
        missing = set(names)

        def probe():
            meanwhile()
            missing.difference_update(self.firing())
            assert not missing, f"do not fire: {missing}"
            return True

        eventually(f"{names} fire", probe, seconds=180)

    def quiet(self, *names, meanwhile=lambda: None):
        """Waits until none of these alerts fires; without names: none at all."""

        def probe():
            meanwhile()
            firing = self.firing()
            still = firing & set(names) if names else firing
            assert not still, f"fire: {still}"
            return True

        eventually(f"{names or 'all'} are quiet", probe, seconds=300)
