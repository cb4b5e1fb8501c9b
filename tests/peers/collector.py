"""A collector over loopback HTTP: takes OTLP requests (protobuf), or refuses them, or never answers."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Received:
    """One span: ids hexadecimal, `parent` empty for a root, times in nanoseconds since 1970, `error` its words."""

    service: str
    trace: str
    id: str
    parent: str
    name: str
    began: int
    ended: int
    facts: dict[str, Any]
    error: str


class Collector:
    """A context manager. `mode` may be changed at any time; `raw` holds the bodies that came, decompressed."""

    def __init__(self) -> None:
        self.mode: Literal["takes", "refuses", "stalls"] = "takes"
        self.spans: list[Received] = []
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.callers: list[str] = []  # their addresses
        self._news = threading.Condition()
        self._over = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(min(length, MAX_BYTES))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if collector.mode == "stalls":
                    collector._over.wait(60)
                    return
                collector.callers.append(self.client_address[0])
                refused = collector.mode == "refuses"
                if not refused:
                    collector._take(self.path, dict(self.headers), body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(400 if refused else 200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        spans = decoded(body)
        with self._news:
            self.raw.append(body)
            self.headers.append(headers)
            self.paths.append(path)
            self.spans += spans
            self._news.notify_all()

    def wait(self, done: Callable[[list[Received]], bool], timeout_s: float = 15) -> list[Received]:
        """The spans, once `done` says so of them. Blocking. TimeoutError names those there are."""
        with self._news:
            if not self._news.wait_for(lambda: done(self.spans), timeout_s):
                raise TimeoutError(f"only these spans came: {[(span.name, span.facts) for span in self.spans]}")
            return list(self.spans)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def decoded(body: bytes) -> list[Received]:
    """The spans of an ExportTraceServiceRequest. Raises DecodeError of protobuf."""
    request = ExportTraceServiceRequest.FromString(body)
    found = []
    for resource in request.resource_spans:
        service = _facts(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                found.append(
                    Received(
                        service,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.name,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        _facts(span.attributes),
                        span.status.message if span.status.code == span.status.STATUS_CODE_ERROR else "",
                    )
                )
    return found


def _facts(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
