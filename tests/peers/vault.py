"""A Vault that knows KV version 2 and 1, over loopback: what `hvac` asks, and answers as the real one documents."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

TOKEN = "a-token-of-the-vault-peer"


class VaultPeer:
    """`secrets`: fields by path, `kv/data/…` of version 2, others of version 1. `asked`: paths, in order."""

    def __init__(self, secrets: dict[str, dict[str, Any]]) -> None:
        self.secrets, self.asked = secrets, list[str]()
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                peer._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def address(self) -> str:
        """For VAULT_ADDR."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.removeprefix("/v1/").partition("?")[0]
        self.asked.append(path)
        found = self.secrets.get(path)
        if request.headers.get("X-Vault-Token") != TOKEN:
            status, body = 403, {"errors": ["permission denied"]}
        elif found is None:
            status, body = 404, {"errors": []}
        else:
            status, body = 200, {"data": {"data": found, "metadata": {"version": 1}} if "/data/" in path else found}
        octets = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(octets)))
        request.end_headers()
        request.wfile.write(octets)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()
