"""Templates: whole pages and fragments, everything from outside escaped, nothing of a secret ever in them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from relay import __version__
from relay.console.identity import Caller
from relay.mail.counted import counted
from relay.mail.reply import spoken

_FOLDER = Path(__file__).parent.parent / "templates"
_ENTRANCE = ("base.html", "macros.html", "login.html", "overview.html", "overview_live.html", "mine.html", "mail.html")
_BREATH_S = 0.05


# Commands for which the pages have buttons; a remedy is written for a terminal, too.
_BUTTON = r"`?relay account (?:set-password|connect|test|resume) [^\s`,;)]*[^\s`,;).](?: --imap)?`?"
_COMMAND = re.compile(rf" \({_BUTTON}(?:, {_BUTTON})*\)|(?:: | with ){_BUTTON}(?=[;,.]\s|[;,.]?$)")
_RESUME = re.compile(r"^`?relay account resume \S+$")
_AND_RESUME = re.compile(r"(?<=ress Test) and resume(?: the account)?")
_STORE = re.compile(r"^Store the right password(?: with| in)?$")


def _moment(value: object) -> Markup:
    """A time of the daemon (ISO, or ms since 1970) in UTC; console.js shows it in the browser's zone."""
    if value in (None, ""):
        return Markup("–")
    text = str(value)
    if isinstance(value, int):
        text = datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Markup('<time datetime="{}">{} UTC</time>').format(text, text.replace("T", " ")[:16])


def _without_command(step: object) -> str:
    """A step of a remedy without what is to be typed in a terminal."""
    text = str(step)
    return "Press Resume." if _RESUME.match(text) else _COMMAND.sub("", text)


def _for_owner(step: str) -> str:
    """A step for whoever has no button to resume an account: it goes on by itself once the login is right."""
    return _STORE.sub("Type the right password above, and press Test", _AND_RESUME.sub("", step))


def _coded(text: object) -> Markup:
    """What stands between backticks as code."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts)
    )


def _voice(reply: object) -> str:
    """Whose words follow: an upstream's, whatever they pretend, or ours."""
    return "The provider said:" if spoken(str(reply)) else "What happened:"


def _facts(detail: Mapping[str, Any]) -> str:
    """What an audit entry says beside its target, for people."""
    return "; ".join(f"{name}: {_fact(value)}" for name, value in detail.items() if value not in (None, "", [], {}))


def _fact(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(_fact, value))
    return json.dumps(value, ensure_ascii=False)


def _span(seconds: object) -> str:
    """A duration in its largest two units."""
    left = int(seconds) if isinstance(seconds, int | float) else 0
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _size(octets: object) -> str:
    number = float(octets) if isinstance(octets, int | float) else 0.0
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _sentence(text: object) -> str:
    """With a capital in front; the rest stays as it is."""
    words = str(text)
    return words if words[1:2].isupper() else words[:1].upper() + words[1:]  # iCloud


def _parted(line: str) -> dict[str, Any]:
    """A line of the log by its parts, as far as it has any: `text` is what is left."""
    try:
        facts = json.loads(line)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        return {"at": "", "level": "", "event": "", "text": line}
    at, level, event = (str(facts.pop(name, "")) for name in ("timestamp", "level", "event"))
    text = " ".join(f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in facts.items())
    return {"at": at, "level": level, "event": event, "text": text}


_TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,  # it would look at every file of every page
)
_TEMPLATES.filters |= {
    "moment": _moment,
    "span": _span,
    "octets": _size,
    "sentence": _sentence,
    "without_command": _without_command,
    "facts": _facts,
    "voice": _voice,
    "for_owner": _for_owner,
    "coded": _coded,
    "counted": counted,
    "parted": _parted,
}
_TEMPLATES.globals |= {"version": __version__}


def page(
    request: Request, template: str, *, caller: Caller | None = None, status: int = 200, **facts: Any
) -> HTMLResponse:
    """A template filled in; `caller` decides which navigation is shown."""
    return HTMLResponse(drawn(template, caller=caller, path=request.url.path, **facts), status)


def drawn(template: str, **facts: Any) -> str:
    """A template filled in."""
    return _TEMPLATES.get_template(template).render(**facts)


def compile_entrance() -> None:
    """The templates that whoever comes in sees first, so that they need not wait for that."""
    for name in _ENTRANCE:
        _TEMPLATES.get_template(name)


async def compile_others() -> None:
    """All templates, one after the other, while whoever comes meanwhile is served."""
    for name in _TEMPLATES.list_templates():
        await asyncio.sleep(_BREATH_S)
        _TEMPLATES.get_template(name)


def wants_fragment(request: Request) -> bool:
    """htmx asks for a part of the page; a browser without scripts for all of it."""
    return request.headers.get("hx-request") == "true"
