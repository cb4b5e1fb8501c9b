"""Local addresses to connect from."""

from __future__ import annotations

from ipaddress import ip_address

from relay.config.wording import shown


def sources_of(text: str) -> tuple[str, ...]:
    """One local address, or one of each IP version with a comma between. Raises ValueError."""
    found: dict[int, str] = {}
    for part in text.split(","):
        try:
            address = ip_address(part.strip().strip("[]"))
        except ValueError:
            raise ValueError(f"{shown(part.strip())} is not an address of this machine") from None
        if address.version in found:
            raise ValueError(f"two addresses of IPv{address.version}; give one of each version at most")
        found[address.version] = str(address)
    return tuple(found.values())
