"""One connection of a browser or program: uvicorn's HTTP/1.1, with an end to every wait for the other side."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 20.0  # for a whole request, from its first octet (or the connection's begin) to its last
WRITE_S = 60.0  # for an answer that nobody reads to move on
MOST = 600  # connections; whoever comes then is not heard


class BoundedConnection(H11Protocol):
    """uvicorn itself waits for ever for the end of a head or body that trickles in, and for a reader that is gone."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._request_ends: asyncio.TimerHandle | None = None
        self._answer_ends: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > MOST:
            transport.abort()
        else:
            self._look()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._request_came()
        self._answer_went()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        super().pause_writing()
        if self._answer_ends is None:
            self._answer_ends = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        super().resume_writing()
        self._answer_went()

    def _look(self) -> None:
        """Part of a request is to come: its time runs from the first of it, whatever else comes meanwhile."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._request_came()
        elif self._request_ends is None:
            self._request_ends = self.loop.call_later(REQUEST_S, self.transport.abort)

    def _request_came(self) -> None:
        if self._request_ends is not None:
            self._request_ends.cancel()
            self._request_ends = None

    def _answer_went(self) -> None:
        if self._answer_ends is not None:
            self._answer_ends.cancel()
            self._answer_ends = None
