"""Keeps the memory and the environment of this process from others: no core dumps, no reading by neighbours."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import MutableMapping

_PR_SET_DUMPABLE = 4  # prctl(2)


def harden_process() -> list[str]:
    """Forbid core dumps and, on Linux, reading our memory by processes of the same user. Call it first of all.

    Returns what could not be done, in words; empty when all is well.  Children inherit the limit, not the flag.
    """
    failed = []
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError) as error:
        failed.append(f"core dumps could not be forbidden: {error}")
    if sys.platform == "linux":
        # The limit alone does not stop a core_pattern that pipes to a program; this flag does (core(5)).
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0) != 0:
            failed.append(f"memory could not be closed to others: prctl error {ctypes.get_errno()}")
    return failed


def take_from_environment(name: str, environ: MutableMapping[str, str]) -> str | None:
    """The value of `name`, which is then gone: from `environ`, so from children, and from our `/proc/<pid>/environ`."""
    value = environ.get(name)
    if value is None:
        return None
    if sys.platform == "linux":
        # unsetenv(3) only forgets the address; the octets stay in the block that the kernel shows.
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_void_p
        address = libc.getenv(name.encode())
        octets = value.encode("utf-8", "surrogateescape")
        if address is not None and ctypes.string_at(address) == octets:
            ctypes.memset(address, 0, len(octets))
    del environ[name]
    return value
