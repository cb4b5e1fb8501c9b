"""Runs a program under what the systemd unit forbids: `python -m tests.system.confine UNIT PROGRAM…`.

SystemCallFilter=, MemoryDenyWriteExecute= and RestrictAddressFamilies= of the unit as a seccomp filter (libseccomp),
NoNewPrivileges=, and no capability; the groups of system calls are those of `systemd-analyze syscall-filter`.
"""

from __future__ import annotations

import configparser
import ctypes
import errno
import os
import subprocess
import sys

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # seccomp(2)
_MASKED_EQ, _NE = 7, 1  # enum scmp_compare
_PROT_WRITE, _PROT_EXEC, _SHM_EXEC = 2, 4, 0o100000
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}


class _Compare(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


class Filter:
    """A seccomp filter that answers EPERM to what no rule allows."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(_ERRNO | errno.EPERM))

    def allow(self, name: str, *conditions: _Compare) -> None:
        """Where all conditions hold. Unknown calls (of other architectures) are left out, as systemd does."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return
        array = (_Compare * len(conditions))(*conditions)
        failed = self._library.seccomp_rule_add_array(self._context, _ALLOW, number, len(conditions), array)
        if failed:
            raise OSError(-failed, f"seccomp rule for {name}")

    def load(self) -> None:
        """From now on, and for every child."""
        failed = self._library.seccomp_load(self._context)
        if failed:
            raise OSError(-failed, "seccomp_load")


def members(group: str) -> set[str]:
    """The system calls of a group such as @system-service."""
    if not group.startswith("@"):
        return {group}
    shown = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    ).stdout.splitlines()[1:]
    words = [line.strip() for line in shown if line.strip() and not line.strip().startswith("#")]
    return set().union(*(members(word) for word in words)) if words else set()


def forbid(unit: dict[str, list[str]]) -> None:
    """Apply the unit's settings to this process. `unit`: of [Service], each name with all its values."""
    allowed, more = unit["SystemCallFilter"]
    calls = set().union(*(members(word) for word in allowed.split()))
    calls -= set().union(*(members(word) for word in more.lstrip("~").split()))
    calls |= {"execve"}  # ours, below
    assert unit["MemoryDenyWriteExecute"] == ["yes"]
    conditions = {
        "mprotect": [_Compare(2, _MASKED_EQ, _PROT_EXEC, 0)],
        "pkey_mprotect": [_Compare(2, _MASKED_EQ, _PROT_EXEC, 0)],
        "shmat": [_Compare(2, _MASKED_EQ, _SHM_EXEC, 0)],
    }
    rules = Filter()
    for call in sorted(calls - conditions.keys() - {"mmap", "socket"}):
        rules.allow(call)
    for call in conditions.keys() & calls:
        rules.allow(call, *conditions[call])
    for protection in (_PROT_WRITE, _PROT_EXEC, 0):  # never both
        rules.allow("mmap", _Compare(2, _MASKED_EQ, _PROT_WRITE | _PROT_EXEC, protection))
    for family in unit["RestrictAddressFamilies"][0].split():
        rules.allow("socket", _Compare(0, _MASKED_EQ, 0xFFFFFFFF, _FAMILIES[family]))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        for capability in range(64):
            if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                break
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    rules.load()


class _Repeated(dict[str, list[str]]):
    def __setitem__(self, name: str, value: list[str]) -> None:
        super().__setitem__(name, [*self.get(name, []), *value] if isinstance(value, list) else value)


def service(text: str) -> dict[str, list[str]]:
    """[Service] of a unit: a name that stands twice has two values."""
    parser = configparser.RawConfigParser(strict=False, dict_type=_Repeated, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return {name: value.split("\n") for name, value in parser.items("Service")}


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        forbid(service(file.read()))
    os.execv(sys.argv[2], sys.argv[2:])
