"""Dialling: from a host name to a connected, verified transport, or the one reason why there is none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar, cast

from relay.net.failure import DialFailed
from relay.net.reach import reach
from relay.net.tls import BadTrust, ClientTls, client_tls, is_cached
from relay.net.way import DIRECT, Way

__all__ = ["DialFailed", "check_pin", "dial", "handshake_failure", "trusted"]

P = TypeVar("P", bound=asyncio.BaseProtocol)

_EXPIRED = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, CERT_HAS_EXPIRED
_WRONG_NAME = frozenset({62, 63, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, EMAIL_MISMATCH, IP_ADDRESS_MISMATCH


async def trusted(trust: str | None, way: Way = DIRECT) -> ClientTls:
    """`client_tls` off the event loop, with the authorities of the way.

    Raises DialFailed(certificate-invalid) for an unusable setting.
    """
    try:
        if is_cached(trust, way.ca_file):
            return client_tls(trust, way.ca_file)
        return await asyncio.to_thread(client_tls, trust, way.ca_file)
    except (OSError, BadTrust) as error:
        raise DialFailed("certificate-invalid", f"the trust setting cannot be used: {error}", in_tls=True) from error


async def dial(
    protocol_factory: Callable[[], P],
    host: str,
    port: int,
    *,
    timeout_s: float,
    tls: ClientTls | None = None,
    way: Way = DIRECT,
) -> tuple[asyncio.Transport, P]:
    """Connect to the first address of `host` that answers, by the given way; with `tls`, from the first byte on.

    TLS is with `host` itself, whatever proxy is on the way.  `timeout_s` covers resolving, connecting, the proxy's
    answer and the handshake.  Raises DialFailed.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    connected = await reach(host, port, way, deadline)
    if tls is None:
        transport, protocol = await loop.create_connection(protocol_factory, sock=connected)
        return transport, protocol
    try:
        transport, protocol = await loop.create_connection(
            protocol_factory,
            sock=connected,
            ssl=tls.context,
            server_hostname=tls.name or host,
            ssl_handshake_timeout=max(0.001, deadline - loop.time()),
        )
    except (OSError, ssl.CertificateError) as error:
        raise handshake_failure(error) from error
    check_pin(transport, tls)
    return transport, protocol


def check_pin(transport: asyncio.BaseTransport, tls: ClientTls) -> None:
    """Right after a handshake: drop the connection and raise DialFailed if it is not with the pinned certificate."""
    try:
        tls.verify_pin(transport.get_extra_info("ssl_object"))
    except ssl.SSLCertVerificationError as error:
        cast("asyncio.WriteTransport", transport).abort()
        raise handshake_failure(error) from error


def handshake_failure(error: BaseException) -> DialFailed:
    """Why a handshake did not end well, by what asyncio or ssl raised."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = getattr(error, "verify_code", None)
        detail = getattr(error, "verify_message", "") or str(error)
        if code in _EXPIRED:
            return DialFailed("certificate-expired", detail, in_tls=True)
        if code in _WRONG_NAME:
            return DialFailed("certificate-name", detail, in_tls=True)
        return DialFailed("certificate-invalid", detail, in_tls=True)
    if isinstance(error, TimeoutError | ConnectionAbortedError):  # the latter is how the loop says time-out
        return DialFailed("stage-timeout", "no answer in the TLS handshake", in_tls=True)
    if isinstance(error, ssl.SSLError):
        return DialFailed("tls-handshake", error.reason or str(error), in_tls=True)
    return DialFailed("tls-handshake", str(error) or "the connection was closed in the TLS handshake", in_tls=True)
