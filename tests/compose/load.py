"""Steady requests over HTTPS through Caddy, each with a nonce by which the database knows it again."""

import itertools
import json
import random
import secrets
import ssl
import threading
from http.client import HTTPException, HTTPSConnection

from stack import GIF_BYTES, Mail, eventually

CLIENTS = 6
# Longer than anything in front may wait for a service: what takes longer was not answered.
PATIENCE_SECONDS = 60


class Load:
    """Clients that ask for pixels and set marks until the end of the `with` block.

    Half of them keep their connection, half open one for each request. The nonce is the user agent.
    """

    def __init__(self, stack):
        self.stack = stack
        self.name = secrets.token_hex(8)
        self.tls = ssl.create_default_context(cafile=stack.root_certificate())
        self.mails = [Mail() for _ in range(20)]
        self.answered = [set() for _ in range(CLIENTS)]
        self.failures = []
        self.over = threading.Event()
        self.clients = [threading.Thread(target=self._client, args=[number]) for number in range(CLIENTS)]

    def __enter__(self):
        for client in self.clients:
            client.start()
        self.goes_on()
        return self

    def __exit__(self, *_):
        self.over.set()
        for client in self.clients:
            client.join()

    def goes_on(self):
        """Waits until each client has got some more answers."""
        wanted = [len(answered) + 10 for answered in self.answered]
        eventually(
            "each client is answered",
            lambda: all(len(answered) >= least for answered, least in zip(self.answered, wanted, strict=True)),
        )

    def _client(self, number):
        connection = None
        for count in itertools.count():
            if self.over.is_set():
                return
            if connection is None:
                connection = HTTPSConnection(
                    "localhost", self.stack.https, context=self.tls, timeout=PATIENCE_SECONDS
                )
            nonce = f"{self.name}-{number}-{count}"
            try:
                closes = self._request(connection, count, nonce)
                self.answered[number].add(nonce)
            except (AssertionError, OSError, HTTPException) as error:
                self.failures.append(f"{nonce}: {error!r}")
                closes = True
            if closes or number % 2:
                connection.close()
                connection = None
            # Sometimes a connection is idle for a while, here and behind Caddy.
            self.over.wait(random.choice([0, 0.01, 0.1]))

    def _request(self, connection, count, nonce):
        mail = self.mails[count % len(self.mails)]
        headers = {"User-Agent": nonce}
        if count % 3:
            connection.request("GET", mail.pixel, headers=headers)
        else:
            body = json.dumps({"email_id": mail.email_id})
            connection.request("POST", "/mark-suppress-next", body, headers | {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        whole = len(body) == GIF_BYTES if count % 3 else body.startswith(b'{"ok":true')
        assert answer.status == 200 and whole, f"{answer.status} {body[:200]}"
        return answer.will_close

    def stored(self):
        """How often each request of this load is in the database, by its nonce."""
        facts = "select user_agent from hits union all select user_agent from marks"
        query = f"select user_agent, count(*) from ({facts}) facts where user_agent like '{self.name}-%' group by 1"
        psql = ["psql", "-h", "127.0.0.1", "-U", "email_tracker_owner", "-At", "-F", " ", "-c", query, "email_tracker"]
        lines = self.stack.compose("exec", "-T", "postgres", *psql).splitlines()
        return {nonce: int(times) for nonce, times in (line.split(" ") for line in lines)}
