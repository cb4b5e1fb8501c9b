"""Exceptions: our own inability, never a "no" from the other side. Rooted in one class, carrying data."""

from __future__ import annotations


class RelayError(Exception):
    """Root of every exception this program raises on purpose."""


class StorageFull(RelayError):
    """No room on the device, or below the free-space floor; answered 452 4.3.1."""


class StorageFailed(RelayError):
    """The store could not make it durable for another reason than room; answered 451 4.3.0."""


class CommitUnknown(StorageFailed):
    """The connection to the store broke during the commit, and what became of it cannot be told yet."""
