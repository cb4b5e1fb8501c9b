"""A webhook over loopback HTTP: takes what Apprise's json:// sends, or refuses it, or never answers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Webhook:
    """A context manager. Paths: /refuses answers 403, /hangs nothing until the end, any other 200."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.callers: list[str] = []  # their addresses
        self._over = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.startswith("/hangs"):
                    hook._over.wait(30)
                refused = self.path.startswith("/refuses")
                if not refused:
                    hook.taken.append(body)
                    hook.callers.append(self.client_address[0])
                self.send_response(403 if refused else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def url(self, path: str = "/ok", login: str = "") -> str:
        """An Apprise URL of it; `login` is `user:secret@` or nothing."""
        return f"json://{login}127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="webhook", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
