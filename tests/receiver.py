"""A web server of somebody else's, as a process: what it does is in the path.

Started as `python receiver.py FOLDER [PORT [CERTIFICATE]]`; prints its port, and writes every
request as one JSON line into FOLDER/requests.jsonl before it answers. A POST to /answers is
answered by the next word of FOLDER/answers: a status, `silent`, or `slow:<seconds>`; 200 if there
is none left.
"""

import base64
import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

LOCK = threading.Lock()


class Receiver(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    folder = Path()

    def do_GET(self) -> None:
        self.receive()

    def do_POST(self) -> None:
        self.receive()

    def receive(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        entry = {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": base64.b64encode(body).decode(),
            "at": time.time(),
        }
        with LOCK, (self.folder / "requests.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        url = urlsplit(self.path)
        verb, _, argument = url.path[1:].partition("/")
        getattr(self, f"act_{verb}")(argument, {k: v[0] for k, v in parse_qs(url.query).items()})

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def act_status(self, argument: str, query: dict[str, str]) -> None:
        self.answer(int(argument))

    def act_answers(self, argument: str, query: dict[str, str]) -> None:
        words = self.folder / "answers"
        with LOCK:
            first, _, rest = (words.read_text() if words.exists() else "").strip().partition(" ")
            words.write_text(rest)
        kind, _, seconds = first.partition(":")
        if kind == "silent":
            time.sleep(60)
        elif kind == "slow":
            time.sleep(float(seconds))
        self.answer(int(first) if first.isdecimal() else 200)

    def act_bytes(self, argument: str, query: dict[str, str]) -> None:
        headers = {"Content_Type": "Image/PNG; charset=x"} | query
        self.answer(200, b"x" * int(argument), **headers)

    def act_file(self, argument: str, query: dict[str, str]) -> None:
        """A file that the test put into the folder."""
        self.answer(200, (self.folder / Path(argument).name).read_bytes())

    def act_redirect(self, argument: str, query: dict[str, str]) -> None:
        """Redirects `argument` times to itself, then to `to`."""
        left = int(argument)
        onward = f"/redirect/{left - 1}?to={query['to']}" if left > 1 else query["to"]
        self.answer(int(query.get("status", 302)), Location=onward)

    def act_endless(self, argument: str, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"400\r\n" + b"x" * 1024 + b"\r\n")

    def act_drip(self, argument: str, query: dict[str, str]) -> None:
        """A header byte every tenth of a second: never idle, never done."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        for _ in range(200):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def act_silent(self, argument: str, query: dict[str, str]) -> None:
        time.sleep(60)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """Handles every connection in a thread, the TLS handshake included."""

    daemon_threads = True
    tls: ssl.SSLContext | None = None

    def finish_request(self, request, client_address) -> None:
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are their own affair."""


def main(folder: str, port: str = "0", certificate: str | None = None) -> None:
    """Serve until killed."""
    Receiver.folder = Path(folder)
    server = Server(("127.0.0.1", int(port)), Receiver)
    if certificate is not None:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.tls.load_cert_chain(certificate)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
