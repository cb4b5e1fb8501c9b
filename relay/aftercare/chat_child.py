"""The process that speaks to chats, webhooks and pagers: JSON on standard input, JSON on standard output.

    {"urls": [...], "title": "...", "body": "...", "proxy": "...", "no_proxy": "...", "source": [...], "ip": "auto"}
    ->  [{"sent": true, "why": ""}, ...]

A process of its own: the library knows a hundred services, takes more memory than the daemon, and one that hangs can
be ended.  The URLs are secrets: they come by standard input, so that nobody sees them among arguments or environment,
and nothing that the library says goes out but what `_reason` lets through.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from functools import partial
from typing import Any

from relay.credentials.hardening import harden_process

_STATUS = re.compile(r"\berror=(\d{3})\b")
_NO_CONNECTION = re.compile(r"connection error", re.IGNORECASE)


class _Heard(logging.Handler):
    """Keeps what the library logged while one service was told."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> int:
    """Tell each service, one after the other, and say how that went."""
    harden_process()
    order = json.loads(sys.stdin.buffer.read())
    if "proxy" in order:  # for the library; what a process does to its own environment nobody else sees
        os.environ |= {"http_proxy": order["proxy"], "https_proxy": order["proxy"], "no_proxy": order["no_proxy"]}
    _leave_from(tuple(order.get("source", ())), str(order.get("ip", "auto")))
    import apprise

    heard = _Heard()
    logger = logging.getLogger("apprise")
    logger.handlers, logger.propagate = [heard], False
    asset = apprise.AppriseAsset(storage_mode="memory", app_id="relay", app_desc="Mail relay", app_url="")
    answers = [_tell(apprise, asset, url, order, heard) for url in order["urls"]]
    sys.stdout.write(json.dumps(answers))
    return 0


def _leave_from(source: tuple[str, ...], ip: str) -> None:
    """Have all sessions of `requests` in this process connect from there; the library makes its own for each call."""
    import requests

    from relay.net.requests_way import FromAddress, local_address

    address = local_address(source, ip)
    if address:
        requests.sessions.HTTPAdapter = partial(FromAddress, address)  # type: ignore[assignment]


def _tell(apprise: Any, asset: Any, url: str, order: dict[str, str], heard: _Heard) -> dict[str, object]:
    heard.lines.clear()
    try:
        service = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
        if service is None:
            return {"sent": False, "why": "not a URL that Apprise knows, or a part of it is missing"}
        sent = bool(service.notify(title=order["title"], body=order["body"], body_format=apprise.NotifyFormat.TEXT))
    except Exception as error:  # of a hundred plug-ins; the text of the error may hold the URL
        return {"sent": False, "why": f"the service's plug-in failed: {type(error).__name__}"}
    return {"sent": sent, "why": "" if sent else _reason(heard.lines)}


def _reason(lines: list[str]) -> str:
    said = " ".join(lines)
    status = _STATUS.search(said)
    if status:
        return f"the service answered {status[1]}"
    return "no connection to the service" if _NO_CONNECTION.search(said) else "the service did not take it"


if __name__ == "__main__":
    sys.exit(main())
