"""Tells chats, webhooks and pagers through Apprise, in a process that is ended when it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relay.config.proxy import url_with_password

if TYPE_CHECKING:
    from pydantic import SecretStr

    from relay.config.egress import EgressSettings

_MOST = 4096  # octets of a text; the smallest limit among the services is theirs to cut to
_ANSWER_BYTES = 1 << 16
# What a child needs to find Python and certificates; nothing of ours, no secret, and no proxy but the relay's own.
_PASSED = ("PATH", "PYTHONPATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
# Apprise's services that open connections of their own making.
_NO_HTTP = frozenset(
    {
        "mailto",
        "mailtos",
        "mqtt",
        "mqtts",
        "xmpp",
        "xmpps",
        "irc",
        "ircs",
        "growl",
        "syslog",
        "rsyslog",
        "smpp",
        "smpps",
    }
    | {"ws", "wss", "dbus", "gnome", "exec", "file"}
)


@dataclass(frozen=True, slots=True)
class ChatOutcome:
    """`channel` is the service's kind and place in the settings, such as `slack (URL 2)`: never the URL."""

    channel: str
    sent: bool
    why: str = ""


class Chats:
    """The URLs of the settings. `tell` one after the other: `timeout_s` bounds all of them together.

    `environ`: of this process; little of it reaches the child.  `egress`: the way out, of services that speak HTTP.
    """

    def __init__(
        self,
        urls: Sequence[SecretStr],
        *,
        timeout_s: float,
        environ: Mapping[str, str],
        egress: EgressSettings | None = None,
    ) -> None:
        self.configure(urls, timeout_s=timeout_s)
        self._environ = {name: environ[name] for name in _PASSED if name in environ}
        self._egress = egress

    def configure(self, urls: Sequence[SecretStr], *, timeout_s: float) -> None:
        """Other URLs, from the next notice on."""
        self._urls, self._timeout_s = tuple(urls), timeout_s

    def directly(self) -> list[str]:
        """The channels for which the way out does not count: they speak no HTTP."""
        return [channel for channel in self.channels if channel.partition(" ")[0] in _NO_HTTP]

    @property
    def channels(self) -> list[str]:
        """How each URL is called to people."""
        return [
            f"{url.get_secret_value().partition('://')[0].lower()} (URL {number})"
            for number, url in enumerate(self._urls, 1)
        ]

    async def tell(self, title: str, body: str) -> list[ChatOutcome]:
        """How it went, one outcome a URL in the order of the settings. Never raises but on cancellation."""
        channels = self.channels
        if not channels:
            return []
        order = {
            "urls": [url.get_secret_value() for url in self._urls],
            "title": title[:200],
            "body": body[:_MOST],
            **self._way(),
        }
        answers, why = await self._ask(json.dumps(order).encode(), len(channels))
        if answers is None:
            return [ChatOutcome(channel, sent=False, why=why) for channel in channels]
        return [
            ChatOutcome(channel, sent=answer.get("sent") is True, why=str(answer.get("why", ""))[:200])
            for channel, answer in zip(channels, answers, strict=True)
        ]

    def _way(self) -> dict[str, object]:
        """The proxy and what is reached without it, with its password, so by standard input as all else; whence."""
        egress = self._egress
        if egress is None:
            return {}
        way: dict[str, object] = {"source": egress.source_address, "ip": egress.ip}
        if egress.proxy is None:
            return way
        return way | {
            "proxy": url_with_password(egress.proxy, egress.proxy_password),
            "no_proxy": ",".join(egress.no_proxy),
        }

    async def _ask(self, order: bytes, count: int) -> tuple[list[dict[str, Any]] | None, str]:
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "relay.aftercare.chat_child"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._environ,
            )
        except OSError as error:
            return None, f"no process could be started: {error.strerror}"
        try:
            async with asyncio.timeout(self._timeout_s):
                output, _ = await process.communicate(order)
        except TimeoutError:
            return None, f"no answer within {self._timeout_s:g} s"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return _read(output, process.returncode, count)


def _read(output: bytes, status: int | None, count: int) -> tuple[list[dict[str, Any]] | None, str]:
    try:
        answers = json.loads(output[:_ANSWER_BYTES]) if status == 0 else None
    except ValueError:
        answers = None
    if not isinstance(answers, list) or len(answers) != count:
        return None, f"the process that tells them ended with status {status}"
    return answers, ""
