"""What a client for HTTPS raised, and what an answer's header says, in the program's own terms."""

from __future__ import annotations

import email.utils
import socket
import ssl

from relay.net.dial import DialFailed, handshake_failure

MAX_RETRY_AFTER_S = 86_400


def https_failure(error: BaseException) -> DialFailed:
    """Why there is no answer, by what httpx raised. Its own text may quote the request: only the cause's goes on."""
    import httpx

    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, DialFailed):
            return cause
        if isinstance(cause, ssl.SSLError):
            return handshake_failure(cause)
        if isinstance(cause, socket.gaierror):
            return DialFailed("dns-failure", cause.strerror or "the name could not be resolved")
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return DialFailed("connection-timeout", "no connection in time")
    if isinstance(error, httpx.ConnectError):
        refused = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
        words = next((str(cause.strerror) for cause in causes if isinstance(cause, OSError) and cause.strerror), "")
        return DialFailed("connection-refused" if refused else "connection-timeout", words or "no connection")
    if isinstance(error, httpx.TimeoutException):
        return DialFailed("stage-timeout", "the other side stopped in the middle of the exchange")
    if isinstance(error, httpx.NetworkError) or "disconnected" in str(error):
        return DialFailed("connection-lost", "the connection broke")
    return DialFailed("protocol-error", "the answer is no HTTP")


def _causes(error: BaseException) -> list[BaseException]:
    """What led to it, groups opened, at most some dozen."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(found) < 32:
        cause = waiting.pop(0)
        if cause is None or cause in found:
            continue
        found.append(cause)
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions
        waiting.append(cause.__cause__ or cause.__context__)
    return found


def retry_after_s(text: str | None, now_s: float) -> int | None:
    """Retry-After as seconds from now (RFC 9110 10.2.3: seconds or a date), at most a day; None: none that is one."""
    if text is None or len(text) > 64:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return min(int(text), MAX_RETRY_AFTER_S)
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0, min(round(until - now_s), MAX_RETRY_AFTER_S))
