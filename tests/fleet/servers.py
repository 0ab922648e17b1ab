"""An object store for tests: moto's S3 behind a proxy that refuses some requests."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import itertools
import socketserver
import threading


class Refusing(http.server.BaseHTTPRequestHandler):
    """Passes requests on; every `every`-th is refused, in turn before and after it is carried out.

    Refused after means that the store has done what was asked, and the answer is lost.
    """

    protocol_version = "HTTP/1.1"
    target = ("127.0.0.1", 0)
    every = 20
    count = itertools.count(1)

    def handle_one_request(self):
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle_one_request()

    def _pass_on(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        number = next(self.count)
        refuse = self.every and number % self.every == 0
        if refuse:
            self.refused.append(f"{self.command} {self.path}")
        if refuse and number // self.every % 2 == 1:
            self._answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
            return
        backend = http.client.HTTPConnection(*self.target, timeout=60)
        try:
            backend.request(self.command, self.path, body, dict(self.headers))
            answer = backend.getresponse()
            content = answer.read()
        finally:
            backend.close()
        if refuse:
            self.close_connection = True  # done, and nobody hears of it
            return
        self._answer(answer.status, dict(answer.getheaders()), content)

    def _answer(self, status, headers, content):
        self.send_response_only(status)
        headers.setdefault("Content-Length", str(len(content)))
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

    def log_message(self, *_):
        pass


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


@contextlib.contextmanager
def refusing_proxy(target, refused, every=20):
    """Yield a proxy's URL; the requests that it refuses are added to `refused`."""
    handler = type(
        "Handler",
        (Refusing,),
        {"target": target, "every": every, "count": itertools.count(1), "refused": refused},
    )
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
