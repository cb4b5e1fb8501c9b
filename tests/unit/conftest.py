"""Fixtures of several modules here."""

from tests.unit.command_line import run

__all__ = ["run"]
