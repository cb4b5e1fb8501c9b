"""The documents: links lead somewhere. Their commands: test_pages_commands.py."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docker/**/*.md"))
    if ".venv" not in page.parts
)
SHOWN = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^( *)(```+)([a-z]*)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def prose(page: Path) -> str:
    """Without what is fenced."""
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Of its headings, as the usual renderers make them."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        anchor = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        number = 1
        while (made := anchor if number == 1 else f"{anchor}-{number - 1}") in found:
            number += 1
        found.add(made)
    return found


def broken(page: Path) -> list[str]:
    """Links to files or headings that are not there; others' sites are not asked."""
    found = []
    for target in _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        place = (page.parent / unquote(path)).resolve() if path else page
        if not place.exists() or (fragment and place.suffix == ".md" and fragment not in anchors(place)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=SHOWN)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_links_that_lead_nowhere_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` (c), d\n\n[x](gone.md) [y](page.md#a-b-c-d) [z](#nothing) `[code](gone)`\n\n```\n[f](gone)\n```\n"
    )
    assert broken(page) == ["gone.md", "#nothing"]


def test_the_rooms_of_the_architecture_are_those_of_the_program() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    listed = set(re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE))
    assert listed == {init.parent.name for init in (ROOT / "relay").glob("*/__init__.py")}


def test_the_modules_that_the_architecture_names_are_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+(?:\.[a-z]+)?)`", page))
    there = (ROOT, ROOT / "relay")
    missing = [
        one for one in named if not any((base / f"{one}{end}").exists() for base in there for end in ("", ".py"))
    ]
    assert not missing
