"""A receiver of webhooks: `receiver.py PORT SECRET FOLDER`.

It verifies as docs/webhooks.md tells receivers to, with the very lines that stand there, writes each request as a line of
JSON into FOLDER/log before it answers, and behaves as FOLDER/mode says at that moment.
"""

import http.server
import json
import os
import pathlib
import re
import sys
import threading
import time

PORT, SECRET, FOLDER = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
DOCUMENT = pathlib.Path(__file__).resolve().parents[3] / "docs" / "webhooks.md"
VERIFIER = {}
exec(re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S).group(1), VERIFIER)  # defines verify()
LOCK = threading.Lock()


def write(entry):
    with LOCK, open(FOLDER / "log", "a") as log:
        log.write(json.dumps(entry) + "\n")
        log.flush()
        os.fsync(log.fileno())


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        mode, _, argument = (FOLDER / "mode").read_text().strip().partition(" ")
        data = json.loads(body).get("data", {})
        # `500-for EMAIL` and the like concern that email only.
        if mode.endswith("-for"):
            mode = mode.removesuffix("-for") if data.get("email_id") == argument else "ok"
        accepts = mode in ("ok", "slow", "huge", "die-after")
        write({
            "id": headers.get("webhook-id"),
            "valid": "webhook-signature" in headers and VERIFIER["verify"](SECRET, headers, body),
            "signatures": len(headers.get("webhook-signature", "").split()),
            "path": self.path,
            "mode": mode,
            "accepted": accepts,
            "body": json.loads(body),
        })
        if mode == "die-after":
            os.kill(os.getpid(), 9)
        elif mode == "ok":
            self.answer(200)
        elif mode == "429":
            self.answer(429, {"retry-after": argument})
        elif mode == "redirect":
            self.answer(302, {"location": f"http://127.0.0.1:{PORT}/elsewhere"})
        elif mode == "hang":
            time.sleep(3600)
        elif mode == "slow":
            time.sleep(2)
            self.answer(200)
        elif mode == "huge":
            self.huge()
        elif mode == "garbage":
            self.wfile.write(b"what?\r\n\r\n")
        else:
            self.answer(int(mode))

    def answer(self, status, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def huge(self):
        self.send_response(200)
        self.send_header("content-length", str(1 << 40))
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x" * 65536)
        except OSError:
            pass


http.server.ThreadingHTTPServer.daemon_threads = True
server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
print(f"listening on {PORT}", flush=True)
server.serve_forever()
