"""Where a connection may not lead whose host was named through the web (server-side request forgery). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

MAIL_PORTS = frozenset({25, 465, 587, 143, 993})
_HTTPS = 443  # of a token endpoint

_Address = IPv4Address | IPv6Address
# Addresses inside clouds that answer any program on the machine with its credentials.
_METADATA: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(network)
    for network in ("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::254/128")
)
_SHARED = ip_network("100.64.0.0/10")  # RFC 6598: behind a provider's NAT, or an overlay network of one's own
_NAT64 = tuple(ip_network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48"))  # RFC 6052, RFC 8215


@dataclass(frozen=True, slots=True)
class Guard:
    """`hosts`: in lower case, those it concerns; every other host was named by an operator of the machine.

    `private`: private networks are allowed.  `ports`: allowed besides those of mail.
    """

    hosts: frozenset[str] = frozenset()
    private: bool = False
    ports: frozenset[int] = frozenset()

    def of(self, hosts: Iterable[str]) -> Guard:
        """The same for these hosts."""
        return replace(self, hosts=frozenset(hosts))

    def concerns(self, host: str) -> bool:
        """Was `host` named through the web?"""
        return normal(host) in self.hosts

    def allows_port(self, port: int) -> bool:
        """May a host that it concerns be connected to there?"""
        return port in MAIL_PORTS or port == _HTTPS or port in self.ports

    def allows(self, address: str) -> bool:
        """May a host that it concerns have this IP address (as getaddrinfo has it, with a scope or without)?"""
        try:
            return self._allows(ip_address(address.partition("%")[0]))
        except ValueError:
            return False

    def _allows(self, address: _Address) -> bool:
        inner = _inside(address)
        if inner is not None:
            return self._allows(inner)
        if any(address in network for network in _METADATA):
            return False
        if (
            address.is_loopback
            or address.is_link_local
            or address.is_unspecified
            or address.is_multicast
            or (isinstance(address, IPv6Address) and address.is_site_local)
        ):
            return False
        if address.is_private or address in _SHARED:
            return self.private and not _reserved(address)
        return not address.is_reserved


UNGUARDED = Guard()


def normal(host: str) -> str:
    """A host as `Guard.hosts` has it."""
    return host.strip().strip("[]").rstrip(".").lower()


def _reserved(address: _Address) -> bool:
    """Private to Python, but no network that anybody has: 0.0.0.0/8, 240.0.0.0/4, documentation."""
    return address.is_reserved or address in ip_network("0.0.0.0/8")


def _inside(address: _Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to: mapped, 6to4, Teredo, NAT64, compatible."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _NAT64) or 1 < int(address) < 1 << 32:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
