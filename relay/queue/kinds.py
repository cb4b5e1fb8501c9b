"""The kinds of rows that a group commit of the queue is made of, by number."""

from __future__ import annotations

ACCEPT, OWE, SETTLE, RECORD, FORGET, NOTE, TELL = range(1, 8)
FENCED = "RY001"  # SQLSTATE of a settlement that came too late
