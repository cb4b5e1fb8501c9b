"""Writes catalogue.json, the form the program reads, from catalogue.yaml, the form people edit: run with -m."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("catalogue.yaml")
TARGET = Path(__file__).with_name("catalogue.json")


def from_source() -> dict[str, Any]:
    """What catalogue.yaml says. Needs PyYAML, which only development installs."""
    import yaml

    catalogue: dict[str, Any] = yaml.safe_load(SOURCE.read_text("utf-8"))
    return catalogue


def main() -> None:
    """Replace catalogue.json."""
    TARGET.write_text(json.dumps(from_source(), ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
