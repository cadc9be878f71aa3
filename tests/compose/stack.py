"""The stack of docker-compose.yml under a project name, ports, addresses and volumes of its own, and clients for it."""

import base64
import itertools
import json
import os
import random
import secrets
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CACHE = ROOT / "target" / "compose-tests"
GIF_BYTES = 43

# Each character that a URL, a shell, Compose or PostgreSQL could stumble over.
ODD = "@/:$x ${y} #%'\"\\?&=+"


class CommandFailed(Exception):
    """A command ended with an error; the text is all that it said."""


class Unanswered(Exception):
    """No HTTP answer came: no connection, no trusted certificate, or a broken answer."""


def run(*command, check=True, timeout=120, env=None, input=None, text=True):
    """Runs a command and gives its standard output; an error is raised with both outputs in it."""
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, check=False, text=text, timeout=timeout, env=env, input=input)
    if check and done.returncode != 0:
        raise CommandFailed(
            f"{' '.join(command)}\nexit {done.returncode}: {done.stderr.strip()}\n{done.stdout[-2000:]}"
        )
    return done.stdout


def eventually(what, probe, seconds=60):
    """Asks `probe` until it answers something true, which is returned; a last failure or answer is in the error."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            last = probe()
            if last:
                return last
        except (CommandFailed, Unanswered, AssertionError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last: {last}")
        time.sleep(0.2)


def inspect_container(container):
    """What the engine knows of a container, by its id."""
    return json.loads(run("docker", "inspect", container))[0]


def free_port():
    """A number free for TCP and UDP at this moment."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("", 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind(("", port))
            except OSError:
                continue
            return port


def free_subnet_prefix():
    """Three numbers under which this machine has no route yet.

    Any of those, so that two runs at once hardly choose the same: the networks are made only after the images.
    """
    routes = " " + run("ip", "-4", "route").replace("\n", " ")
    prefixes = [f"10.214.{n}" for n in range(100, 250)]
    return random.choice([prefix for prefix in prefixes if f" {prefix}." not in routes])


def venv(name, *packages):
    """The Python of an environment that holds these packages, made once below target/."""
    python = CACHE / name / "bin" / "python"
    done = CACHE / name / "complete"
    if not done.exists():
        run("python3", "-m", "venv", "--clear", CACHE / name, timeout=300)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages, timeout=600)
        done.touch()
    return python


@dataclass
class Answer:
    """One HTTP answer; header names are in lower case."""

    status: int
    version: str
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


@dataclass
class Mail:
    """A tracked mail as the extension makes it."""

    email_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    user_id: str = "sender@example.com"
    recipient: str = "zoë@example.org"

    @property
    def pixel(self):
        token = json.dumps([self.user_id, self.email_id, self.recipient, "2026-01-02T03:04:05Z"], ensure_ascii=False)
        return f"/t/{base64.urlsafe_b64encode(token.encode()).decode().rstrip('=')}.gif"


class Stack:
    """One stack. `settings` is what its .env holds; `up` with other settings recreates what they change."""

    _numbers = itertools.count(1)
    _started = []

    def __init__(self, domain="localhost", **settings):
        self.project = f"email-tracker-test-{os.getpid()}-{next(self._numbers)}"
        self.folder = tempfile.TemporaryDirectory(prefix=self.project)
        self.overrides = []
        self.http, self.https, self.proxy = free_port(), free_port(), free_port()
        self.token = "dashboard " + ODD + secrets.token_hex(8)
        self.settings = {
            "DOMAIN": domain,
            "DASHBOARD_TOKEN": self.token,
            "RECORDER_TOKEN": "recorder " + ODD + secrets.token_hex(8),
            "POSTGRES_PASSWORD": "owner" + ODD,
            "RECORDER_DB_PASSWORD": "recorder" + ODD,
            "DASHBOARD_DB_PASSWORD": "dashboard" + ODD,
            "HTTP_PORT": self.http,
            "HTTPS_PORT": self.https,
            "PROXY_PORT": self.proxy,
            "SUBNET_PREFIX": free_subnet_prefix(),
            "BACKUP_DIR": Path(self.folder.name) / "backups",
        } | settings

    @classmethod
    def shared(cls):
        """The stack that all tests use which leave it as they found it; started with the first of them."""
        if not cls._started:
            cls._started.append(cls())
            cls._started[0].up("--build")
        return cls._started[0]

    @classmethod
    def remove_shared(cls):
        for stack in cls._started:
            stack.down()
        cls._started.clear()

    # --- The stack itself

    def compose(self, *words, without=(), timeout=1800, check=True, input=None, text=True, **settings):
        """`docker compose` with this stack's .env, to which `settings` are added and `without` is missing.

        Files in `overrides` come after docker-compose.yml.
        """
        env_file = Path(self.folder.name) / ".env"
        entries = {name: str(value) for name, value in (self.settings | settings).items() if name not in without}
        # As .env.example says: in single quotes, with \' for a single quote.
        env_file.write_text(
            "".join("{}='{}'\n".format(name, value.replace("'", "\\'")) for name, value in entries.items())
        )
        files = [ROOT / "docker-compose.yml", *self.overrides, HERE / "docker-compose.yml"]
        files = [word for file in files for word in ("-f", file)]
        command = ["docker", "compose", "-p", self.project, "--env-file", env_file, *files, *words]
        # Compose takes variables of the shell before those of the file, so it gets none but its own.
        shell = {
            name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or name.startswith("DOCKER_")
        }
        return run(*command, env=shell, timeout=timeout, check=check, input=input, text=text)

    def up(self, *words, **settings):
        return self.compose("up", "-d", "--wait", "--wait-timeout", "180", *words, **settings)

    def down(self):
        self.compose("--profile", "*", "down", "-v", "--remove-orphans", "--rmi", "local", "-t", "5")
        self.folder.cleanup()

    def logs(self, *services):
        return self.compose("logs", "--no-color", "--tail", "50", *services, check=False)

    def container(self, service):
        return self.compose("ps", "-a", "-q", service).strip()

    def inspect(self, service):
        return inspect_container(self.container(service))

    def in_caddy(self, *command):
        return self.compose("exec", "-T", "caddy", *command)

    def root_certificate(self, service="caddy"):
        """The file of the root certificate that this Caddy's internal authority made for itself."""
        file = Path(self.folder.name) / f"{service}-root.pem"
        print_it = ["exec", "-T", service, "cat", "/data/caddy/pki/authorities/local/root.crt"]
        file.write_text(eventually(f"root certificate of {service}", lambda: self.compose(*print_it)))
        return file

    # --- Clients

    @property
    def direct(self):
        """Where a reverse proxy of the user's own would ask."""
        return f"http://127.0.0.1:{self.proxy}"

    @property
    def public(self):
        return f"https://{self.settings['DOMAIN']}:{self.https}"

    def curl(self, url, *options, trust=None, namespace=None):
        """One request by curl. Below `public` the certificate is checked, against `trust` or the internal authority."""
        command = ["ip", "netns", "exec", namespace] if namespace else []
        command += ["curl", "--silent", "--show-error", "--path-as-is", "--max-time", "60"]
        if url.startswith("https:"):
            command += ["--cacert", trust or self.root_certificate()]
        with tempfile.NamedTemporaryFile() as head, tempfile.NamedTemporaryFile() as body:
            wanted = "%{http_code} %{http_version}"
            command += ["-D", head.name, "-o", body.name, "-w", wanted, *options, url]
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
            if done.returncode != 0:
                raise Unanswered(f"{url[:200]}: {done.stderr.strip()}")
            status, version = done.stdout.split()
            lines = Path(head.name).read_text().strip().split("\r\n\r\n")[-1].splitlines()[1:]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            return Answer(int(status), version, headers, Path(body.name).read_bytes())

    def http3(self, mail, *headers, address="127.0.0.1", namespace=None):
        """One GET of the mail's pixel over HTTP/3: its status and length as text."""
        command = ["ip", "netns", "exec", namespace] if namespace else []
        command += [venv("http3", "aioquic==1.7.2"), HERE / "http3.py", address, self.https, self.settings["DOMAIN"]]
        return run(*command, self.root_certificate(), mail.pixel, *headers).strip()

    def api(self, path, base=None, token=None):
        answer = self.curl((base or self.direct) + path, "-H", f"X-Tracker-Token: {token or self.token}")
        assert answer.status == 200, f"{path}: {answer}"
        return answer.json()

    def email(self, mail, base=None):
        """The mail's row of the dashboard API, or None while it is not there."""
        items = self.api("/dashboard/api/emails", base)["items"]
        return next((item for item in items if item["email_id"] == mail.email_id), None)

    def hits(self, mail):
        """Every hit of the mail, newest first, those that do not count too."""
        return self.api(f"/dashboard/api/open-events?email_id={mail.email_id}&include=all")["items"]

    def recorded(self, mail, raw=1, base=None):
        """Waits until so many hits of the mail are recorded; its row."""

        def probe():
            row = self.email(mail, base)
            return row if row and row["raw_open_events"] >= raw else None

        return eventually(f"{raw} hits of {mail.email_id}", probe)
