"""Under which addresses the console is reached, by its settings. Pure; no settings model is loaded for it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from relay.config.console import ConsoleSettings


def own_names(settings: ConsoleSettings) -> frozenset[str]:
    """Under which names the console may be called."""
    own = {"localhost", "127.0.0.1", "::1", *(name.lower().strip("[]") for name in settings.hosts)}
    if settings.host not in ("0.0.0.0", "::", "[::]"):  # noqa: S104  # every address is no name
        own.add(settings.host.lower().strip("[]"))
    if settings.url:
        own.add(urlsplit(settings.url).hostname or "")
    return frozenset(own - {""})


def is_own_address(settings: ConsoleSettings, url: str, path: str) -> bool:
    """Is `url` that page of this console, under a name that it answers to, and nothing more?"""
    if settings.url:
        return url == settings.url + path
    try:
        parts = urlsplit(url)
        own = (parts.hostname or "") in own_names(settings) and parts.username is None
    except ValueError:
        return False
    return own and parts.scheme in ("http", "https") and parts.path == path and not (parts.query or parts.fragment)


def origin_of(url: str) -> tuple[str, str]:
    """The host name, and the origin as browsers write it: in lower case, without the scheme's own port (RFC 6454 6)."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    shown = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, {"https": 443, "http": 80}.get(parts.scheme)) else f":{parts.port}"
    return host, f"{parts.scheme}://{shown}{port}"
