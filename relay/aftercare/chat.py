"""Tells chats, webhooks and pagers through Apprise, in a process that is ended when it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import SecretStr


_MOST = 4096  # octets of a text; the smallest limit among the services is theirs to cut to
_ANSWER_BYTES = 1 << 16
# What a child needs to find Python, certificates and a proxy; nothing of ours, and no secret.
_PASSED = ("PATH", "PYTHONPATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class ChatOutcome:
    """`channel` is the service's kind and place in the settings, such as `slack (URL 2)`: never the URL."""

    channel: str
    sent: bool
    why: str = ""


class Chats:
    """The URLs of the settings. `tell` one after the other: `timeout_s` bounds all of them together.

    `environ`: of this process; little of it reaches the child.
    """

    def __init__(self, urls: Sequence[SecretStr], *, timeout_s: float, environ: Mapping[str, str]) -> None:
        self._urls = tuple(urls)
        self._timeout_s = timeout_s
        self._environ = {name: environ[name] for name in (*_PASSED, *_PROXIES) if name in environ}

    @property
    def channels(self) -> list[str]:
        """How each URL is called to people."""
        return [
            f"{url.get_secret_value().partition('://')[0].lower()} (URL {number})"
            for number, url in enumerate(self._urls, 1)
        ]

    async def tell(self, title: str, body: str) -> list[ChatOutcome]:
        """How it went, one outcome a URL in the order of the settings. Never raises but on cancellation."""
        if not self._urls:
            return []
        order = {
            "urls": [url.get_secret_value() for url in self._urls],
            "title": title[:200],
            "body": body[:_MOST],
        }
        answers, why = await self._ask(json.dumps(order).encode())
        if answers is None:
            return [ChatOutcome(channel, sent=False, why=why) for channel in self.channels]
        return [
            ChatOutcome(channel, sent=answer.get("sent") is True, why=str(answer.get("why", ""))[:200])
            for channel, answer in zip(self.channels, answers, strict=True)
        ]

    async def _ask(self, order: bytes) -> tuple[list[dict[str, Any]] | None, str]:
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
        return self._read(output, process.returncode)

    def _read(self, output: bytes, status: int | None) -> tuple[list[dict[str, Any]] | None, str]:
        try:
            answers = json.loads(output[:_ANSWER_BYTES]) if status == 0 else None
        except ValueError:
            answers = None
        if not isinstance(answers, list) or len(answers) != len(self._urls):
            return None, f"the process that tells them ended with status {status}"
        return answers, ""
