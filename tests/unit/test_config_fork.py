"""Work in a fork: its result comes back, its end without one is told."""

from __future__ import annotations

import os
import signal

import pytest

from relay.config.fork import Fork, ForkEnded


def test_a_result_larger_than_a_pipe_comes_back_from_another_process() -> None:
    octets, pid = Fork(lambda: (bytes(1 << 20), os.getpid())).result()
    assert len(octets) == 1 << 20
    assert pid != os.getpid()


def test_an_end_without_a_result_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ForkEnded) as failed:
        Fork(lambda: 1 // 0).result()
    assert failed.value.status == 1
    assert "ZeroDivisionError" in capfd.readouterr().err
    with pytest.raises(ForkEnded) as killed:
        Fork(lambda: os.kill(os.getpid(), signal.SIGKILL)).result()
    assert killed.value.status == -signal.SIGKILL
