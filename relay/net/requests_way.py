"""The part of the way out that libraries which use `requests` leave to it: the local address. Loaded with them."""

from __future__ import annotations

from typing import Any

from requests.adapters import HTTPAdapter


def local_address(source: tuple[str, ...], ip: str) -> str:
    """The one address to connect from, "": any. `source` and `ip` as in `net.way.Way`.

    One connection has one: of two sources the first counts unless `ip` asks for the other.  Without a source the
    unspecified address of a version keeps to that version: hosts' other addresses are passed over.
    """
    version = {"4": ".", "6": ":"}.get(ip, "")
    fitting = [address for address in source if version in address]
    return fitting[0] if fitting else {"4": "0.0.0.0", "6": "::"}.get(ip, "")  # noqa: S104 - not to listen at


class FromAddress(HTTPAdapter):
    """Connects from `address`, directly as to a proxy."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(*arguments, **options, source_address=(self._address, 0))

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        """See HTTPAdapter."""
        return super().proxy_manager_for(proxy, **options, source_address=(self._address, 0))
