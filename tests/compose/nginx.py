"""nginx.conf.example, run as it is but for name, ports and files."""

import re
from pathlib import Path

from stack import ROOT, eventually, free_port, run


class Nginx:
    """nginx on this machine's own network, in front of the stack's port 8090."""

    def __init__(self, stack, folder, name, certificate, key):
        self.http, self.https = free_port(), free_port()
        text = (ROOT / "nginx.conf.example").read_text()
        for pattern, replacement, times in [
            (r"track\.example\.com;", f"{name};", 1),
            (r"127\.0\.0\.1:8090;", f"127.0.0.1:{stack.proxy};", 1),
            (r"(listen (?:\[::\]:)?)80;", rf"\g<1>{self.http};", 2),
            (r"(listen (?:\[::\]:)?)443 ", rf"\g<1>{self.https} ", 2),
            (r"/etc/letsencrypt/live/\S+/fullchain\.pem", "/tls/certificate.pem", 1),
            (r"/etc/letsencrypt/live/\S+/privkey\.pem", "/tls/key.pem", 1),
        ]:
            text, replaced = re.subn(pattern, replacement, text)
            assert replaced == times, f"nginx.conf.example has {replaced} times {pattern}"
        # The image's own site listens on port 80, so its folder is replaced as a whole.
        sites = Path(folder) / "conf.d"
        sites.mkdir()
        (sites / "email-tracker.conf").write_text(text)
        files = {sites: "/etc/nginx/conf.d", certificate: "/tls/certificate.pem", key: "/tls/key.pem"}
        mounts = [word for source, target in files.items() for word in ("-v", f"{source}:{target}:ro")]
        self.container = run("docker", "run", "-d", "--network", "host", *mounts, "nginx:1").strip()
        try:
            eventually("nginx answers", lambda: stack.curl(f"http://127.0.0.1:{self.http}/").status == 308)
        except AssertionError as error:
            raise AssertionError(f"{error}: {run('docker', 'logs', self.container)}") from None

    def remove(self):
        run("docker", "rm", "-f", "-v", self.container)
