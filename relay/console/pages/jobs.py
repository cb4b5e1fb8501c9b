"""Actions that take a while: started by a form, watched by its page step by step."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.console.identity import Caller
from relay.control.refusal import ControlError

_MOST = 200
_RESERVED = 50  # of them for administrators
_EACH = 10  # of one person, and so many of them at once:
_AT_ONCE = 3
_KEPT_S = 600.0


@dataclass(slots=True)
class Job:
    """One action under way. `steps`: what it told; at the end there is an `answer` or a `refusal`."""

    id: str
    owner: str
    began: float
    steps: list[Mapping[str, Any]] = field(default_factory=list)
    answer: Any = None
    refusal: ControlError | None = None
    task: asyncio.Task[None] | None = None
    typed: bytes = b""  # of the password that it was made with and that is not stored: see `_mark`
    what: str = ""  # is asked; "": nobody else is to join it

    @property
    def done(self) -> bool:
        """It ended."""
        return self.task is None or self.task.done()


class Jobs:
    """Those of one web process; at most 200, ten of a person, forgotten after ten minutes."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._key = secrets.token_bytes(32)

    def start(self, caller: Caller, action: str, arguments: Mapping[str, Any]) -> Job:
        """Have the daemon do it in the caller's name. Raises ControlError (throttled) when too many are under way."""
        self._forget()
        own = self._of(caller)
        if sum(not job.done for job in own) >= _AT_ONCE:
            raise ControlError("too much of yours is under way already", "wait until it has ended", "throttled", 10)
        for past in [job for job in own if job.done][: max(0, len(own) - _EACH + 1)]:
            del self._jobs[past.id]  # their own oldest, so nobody takes the places of others
        if len(self._jobs) >= (_MOST - _RESERVED if caller.owner else _MOST):
            raise ControlError("too much is under way already", "try again in a minute", "throttled", 60)
        typed = self._mark(arguments) if "password" in arguments else b""
        job = Job(secrets.token_urlsafe(16), caller.name, time.monotonic(), typed=typed)
        job.task = asyncio.create_task(_run(job, caller, action, dict(arguments)), name=f"job {action}")
        self._jobs[job.id] = job
        return job

    def joined(self, caller: Caller, action: str, arguments: Mapping[str, Any]) -> Job:
        """The same of theirs that is under way, or a new one: for what changes nothing, however often it is loaded.

        Raises ControlError (throttled).
        """
        what = json.dumps([action, arguments], sort_keys=True)
        for job in self._of(caller):
            if job.what == what and not job.done:
                return job
        job = self.start(caller, action, arguments)
        job.what = what
        return job

    def of(self, caller: Caller, job_id: str) -> Job:
        """A job of this person. Raises ControlError (not-found)."""
        job = self._jobs.get(job_id)
        if job is None or job.owner != caller.name:
            raise ControlError("there is no such test or check any more", "start it again", "not-found")
        return job

    def worked(self, caller: Caller, account: str, password: str) -> bool:
        """Did this person's latest test of that very password go well?"""
        mark = self._mark({"account": account, "password": password})
        tests = [job for job in self._of(caller) if job.done and job.typed == mark]
        return bool(tests) and tests[-1].answer is not None and bool(tests[-1].answer["ok"])

    def _mark(self, arguments: Mapping[str, Any]) -> bytes:
        """Tells one password from another, for as long as this process lives, and is of no use elsewhere."""
        typed = f"{arguments['account']}\0{arguments['password']}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(typed, key=self._key, digest_size=32).digest()

    def _of(self, caller: Caller) -> list[Job]:
        return [job for job in self._jobs.values() if job.owner == caller.name]

    def _forget(self) -> None:
        before = time.monotonic() - _KEPT_S
        for job in [job for job in self._jobs.values() if job.done and job.began < before]:
            del self._jobs[job.id]


async def _run(job: Job, caller: Caller, action: str, arguments: dict[str, Any]) -> None:
    try:
        job.answer = await caller.call(action, arguments, job.steps.append)
    except ControlError as refusal:
        job.refusal = refusal
