"""A small web server on this machine, as good or as bad as a test wants it."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves one file.

    Args:
        content: of the file.
        ranges: whether a part can be asked for.
        breaks: how many bytes each connection brings before it is closed; the last one repeats.
        status: of every answer, instead of 200 or 206.
    """

    def __init__(self, content, *, ranges=True, breaks=(), status=None):
        self.content, self.ranges, self.status = content, ranges, status
        self.breaks = list(breaks)
        self.asked = []
        """The `Range` of each request, or None."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/data.tar.xz"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def answer(self, request):
        asked = request.headers.get("Range")
        self.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.ranges else 0
        body = self.content[start:]
        status = self.status or (206 if asked and self.ranges else 200)
        if start >= len(self.content) and asked and self.ranges:
            status, body = 416, b""
        request.send_response(status)
        if status == 206:
            whole = len(self.content)
            request.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        most = len(body)
        if self.breaks:
            most = self.breaks.pop(0) if len(self.breaks) > 1 else self.breaks[0]
        request.wfile.write(body[:most])
        request.close_connection = True

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
