"""Whether messages are traced, and by which settings; the library for it is loaded only when they are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.telemetry import tracing
from relay.telemetry.tracing import Tracer

if TYPE_CHECKING:
    from relay.config.egress import EgressSettings
    from relay.config.telemetry import TelemetrySettings
    from relay.telemetry.otlp import OtlpThread

_LAST_S = 3.0  # for what waits at the end


class Traces:
    """One per daemon; `extras.require_extras` must have been asked. `configure` may be called again."""

    def __init__(self, egress: EgressSettings) -> None:
        self._egress = egress
        self._settings: TelemetrySettings | None = None
        self._thread: OtlpThread | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def configure(self, settings: TelemetrySettings) -> None:
        """Trace from now on as these say. Never waits: what the settings before had left is sent meanwhile."""
        if settings == self._settings:
            return
        self._settings = settings
        self._retire()
        if not settings.otlp_endpoint:
            return
        from relay.telemetry.otlp import OtlpThread

        tracer = Tracer(ratio=settings.sample_ratio, addresses=settings.addresses)
        self._thread = OtlpThread(tracer, settings, self._egress)
        self._thread.start()
        tracing.current = tracer

    async def stop(self) -> None:
        """Send what waits; at most 3 s."""
        self._retire()
        if self._ending:
            await asyncio.wait(self._ending)

    def _retire(self) -> None:
        tracing.current = None
        if self._thread is not None:
            task = asyncio.create_task(asyncio.to_thread(self._thread.stop, _LAST_S), name="traces end")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self._thread = None
