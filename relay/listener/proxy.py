"""The PROXY header of a balancer: where a connection really comes from (HAProxy's proxy-protocol.txt, 2.1 and 2.2)."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import IPv4Address, IPv6Address

from aiosmtpd.proxy_protocol import AF, PROTO, V2_CMD, V2_SIGNATURE, ProxyData, get_proxy

from relay.mail.errors import RelayError

HEADER_S = 5.0  # for the whole header
_MAX_V1 = 107  # octets with the line end
_MAX_V2_REST = 4096  # octets behind the fixed part: addresses, and what the balancer tells of TLS
_SHORTEST = len(b"PROXY UNKNOWN\r\n")
_FIXED = 16  # octets of version 2 before its addresses
_LIBRARY_LOG = logging.getLogger("mail.debug")  # aiosmtpd's


class BadHeader(RelayError):
    """What a balancer sent is no PROXY header, or not of a stream."""


class Framing:
    """Collects one header, and not an octet of what follows it: that is for TLS or for the session."""

    def __init__(self) -> None:
        self.header = bytearray()

    @property
    def wanted(self) -> int:
        """How many octets may be read now; 0: the header is complete."""
        header = self.header
        if len(header) < _SHORTEST:
            return _SHORTEST - len(header)
        if not header.startswith(V2_SIGNATURE):
            return 0 if header.endswith(b"\n") else 1
        if len(header) < _FIXED:
            return _FIXED - len(header)
        return _FIXED + int.from_bytes(header[14:16]) - len(header)

    def add(self, octets: bytearray) -> None:
        """No more than `wanted`. Raises BadHeader as soon as it cannot become one."""
        header = self.header
        header += octets
        if header.startswith(V2_SIGNATURE):
            if int.from_bytes(header[14:16]) > _MAX_V2_REST:
                raise BadHeader("the PROXY header is too long")
        elif not (V2_SIGNATURE.startswith(header) or header.startswith(b"PROXY "[: len(header)])):
            raise BadHeader("no PROXY header")
        elif len(header) >= _MAX_V1 and self.wanted:
            raise BadHeader("the PROXY header is too long")


def announced(header: bytes) -> str | None:
    """The address a whole `header` announces; None: the balancer speaks for itself (LOCAL, UNKNOWN, a Unix socket).

    Raises BadHeader.
    """
    _LIBRARY_LOG.setLevel(logging.ERROR)  # what it says, `listener.refused` says with the client's address
    found = _parsed(header)
    if not found.valid:
        raise BadHeader(found.error or "the PROXY header is malformed")
    if found.command == V2_CMD.LOCAL or found.family in (AF.UNSPEC, AF.UNIX):
        return None
    source = found.src_addr
    if found.protocol != PROTO.STREAM or not isinstance(source, IPv4Address | IPv6Address):
        raise BadHeader("the PROXY header announces no stream")
    return str((source.ipv4_mapped if isinstance(source, IPv6Address) else None) or source)


def _parsed(header: bytes) -> ProxyData:
    reader = asyncio.StreamReader(limit=len(header), loop=asyncio.get_running_loop())
    reader.feed_data(header)
    reader.feed_eof()
    try:
        get_proxy(reader).send(None)  # all of it is there: it never waits
    except StopIteration as done:
        result: ProxyData = done.value
        return result
    raise BadHeader("the PROXY header is malformed")
