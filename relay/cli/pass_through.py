"""`relay sendmail -bs`: the SMTP dialogue of a program on standard input and output, at the front door."""

from __future__ import annotations

import os
import socket
import sys
import threading

from relay.cli.submitting import Server

_CHUNK = 65_536


def pass_through(server: Server) -> int:
    """Carry octets both ways until the door ends the session; the exit status is of sysexits.h."""
    try:
        connected = server.connect()
    except OSError as error:
        _say(b"421 4.3.2 the relay does not answer, try again later\r\n")
        sys.stderr.write(f"relay: no answer from the relay at {server}: {error.strerror or error}; try again later\n")
        return 75
    with connected:
        try:
            # A program may have its whole dialogue ready; the door turns away who talks before its greeting.
            while not (chunk := connected.recv(_CHUNK)).endswith(b"\n"):
                if not chunk:
                    return 0
                _say(chunk)
            _say(chunk)
            # Ends with this process: nothing can wake it from a read that the other program never answers.
            threading.Thread(target=_carry_in, args=(connected,), daemon=True).start()
            while chunk := connected.recv(_CHUNK):
                _say(chunk)
        except OSError:  # the door is gone, or silent for longer than it lets a session be
            return 75
    return 0


def _carry_in(connected: socket.socket) -> None:
    try:
        while chunk := os.read(0, _CHUNK):
            connected.sendall(chunk)
        connected.shutdown(socket.SHUT_WR)
    except OSError:  # the other direction has ended
        return


def _say(octets: bytes) -> None:
    while octets:
        octets = octets[os.write(1, octets) :]
