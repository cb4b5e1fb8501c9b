"""Sections and values of an INI file with the lines they stand in, which configparser does not tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from relay.control.imports.plan import BadConfiguration, Line, Place, lines_of


@dataclass(slots=True)
class Section:
    """A section; `name` "" is what stands before the first one."""

    name: str
    place: Place
    values: dict[str, Line] = field(default_factory=dict)

    def get(self, key: str, default: str = "") -> str:
        """A value, quotes around it taken off."""
        text = self.values[key].text if key in self.values else default
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text

    def at(self, key: str) -> Place:
        """Where that value stands, or else the section."""
        return self.values[key].place if key in self.values else self.place


def read_ini(path: Path) -> list[Section]:
    """The sections in order. A line that begins with white space goes on the value before. Refused: other lines."""
    sections = [Section("", Place(path, 0))]
    last = ""
    for line in lines_of(path):
        text = line.text.strip()
        if not text or text[0] in "#;":
            continue
        if line.text[0].isspace() and last:
            before = sections[-1].values[last]
            sections[-1].values[last] = Line(before.place, f"{before.text} {text}")
        elif text[0] == "[" and text[-1] == "]":
            sections.append(Section(text[1:-1].strip(), line.place))
            last = ""
        else:
            key, equals, value = text.partition("=")
            if not equals or not key.strip():
                raise BadConfiguration(line.place, "is neither a section nor `name = value`", "mend that line")
            last = key.strip().lower()
            sections[-1].values[last] = Line(line.place, value.strip())
    return sections
