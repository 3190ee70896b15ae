"""An object store on loopback: moto speaks S3's API; a proxy before it counts, delays and fails.

tests/conftest.py loads this file by its path (tests are no package) and makes fixtures of it.
"""

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

BUCKET = "bucket"
ENVIRONMENT = {
    "AWS_ALLOW_HTTP": "true",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}


# moto looks whether an object is there and then writes it: unlike S3's, its conditional writes of
# two at once may both win, so all that is no GET goes through one at a time.
SERVE = """
import sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()
def serve(environ, start):
    if environ["REQUEST_METHOD"] == "GET":
        return moto(environ, start)
    with turn:
        return moto(environ, start)
run_simple("127.0.0.1", int(sys.argv[1]), serve, threaded=True)
"""


@contextlib.contextmanager
def server() -> Iterator[int]:
    """Port of a moto server with one empty bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVE, str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
    try:
        _make_bucket(port)
        yield port
    finally:
        process.kill()
        process.wait()


def _make_bucket(port: int) -> None:
    until = time.monotonic() + 60
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", data=b"", method="PUT")
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


class Request(NamedTuple):
    """One that the proxy saw."""

    method: str
    path: str
    """Behind the bucket; with the query."""
    sent: int
    """Bytes of the answer's body."""


class Proxy:
    """Forwards to the server. Set `refuse` or `lose` to fail what they are true of by a 500, before
    it reaches the server or after. `delay` is in seconds, of every GET."""

    def __init__(self, port: int) -> None:
        self.requests: list[Request] = []
        self.delay = 0.0
        self.refuse: Callable[[str, str], bool] = lambda method, path: False
        self.lose: Callable[[str, str], bool] = lambda method, path: False
        self._target = port
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """For AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def of(self, method: str, part: str = "") -> list[Request]:
        """Requests so far by method, whose path contains `part`."""
        return [r for r in self.requests if r.method == method and part in r.path]

    def _forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._target, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        if method == "GET":
            time.sleep(self.delay)
        if self.refuse(method, path):
            return 500, [], b"<Error><Code>InternalError</Code></Error>"
        found = self._forward(method, path, headers, body)
        if self.lose(method, path):
            return 500, [], b"<Error><Code>InternalError</Code></Error>"
        return found

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, content = proxy._answer(
                    self.command, self.path, dict(self.headers.items()), body
                )
                path = self.path.removeprefix(f"/{BUCKET}").lstrip("/")
                proxy.requests.append(Request(self.command, path, len(content)))
                with contextlib.suppress(ConnectionError):  # a client that was killed
                    self._send(status, headers, content)

            def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                lengths = ("content-length", "transfer-encoding", "connection")
                for name, value in headers:
                    if name.lower() not in lengths or self.command == "HEAD":
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":  # else the next answer on this connection is garbage
                    self.wfile.write(content)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        return Handler


def environment(url: str) -> dict[str, str]:
    """What a process needs to find the store."""
    return {**ENVIRONMENT, "AWS_ENDPOINT_URL": url}


def missing() -> str:
    """Why there is no object store here; empty where there is one."""
    for name in ("obstore", "moto", "flask"):
        try:
            __import__(name)
        except ImportError:
            return f"{name} is not installed here"
    return ""
