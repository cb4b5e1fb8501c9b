"""The AUTH commands of one session (RFC 4954 4)."""

from __future__ import annotations

from relay.accounts.model import Client
from relay.listener import auth_replies, replies
from relay.listener.authentication import Ask
from relay.listener.dialogue import Dialogue
from relay.listener.door import Door

MAX_FAILURES = 3


class Login:
    """Counts what failed; the last failure ends the session."""

    def __init__(self, door: Door, dialogue: Dialogue, ask: Ask) -> None:
        self._door = door
        self._dialogue = dialogue
        self._ask = ask
        self._failures = 0

    async def answer(self, argument: bytes) -> bytes:
        """The reply to an AUTH command, once its exchange is over. What `ask` raises comes through."""
        refusal = self._refusal(argument)
        if refusal is not None:
            return refusal
        dialogue = self._dialogue
        outcome = await self._door.authentication.take(dialogue.peer, argument, self._ask)
        if isinstance(outcome, Client):
            dialogue.authenticated(outcome)
            return auth_replies.AUTHENTICATED.to_wire()
        if outcome is auth_replies.FAILED:
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                outcome = auth_replies.TOO_MANY
        if outcome is auth_replies.TOO_MANY:
            dialogue.closing = "logins"
        return dialogue.refuse(outcome)

    def _refusal(self, argument: bytes) -> bytes | None:
        """Why no exchange can begin now; None: it can."""
        door, dialogue = self._door, self._dialogue
        if door.auth_offered(dialogue.peer, tls=dialogue.tls):
            return dialogue.may_authenticate(argument)
        if door.starttls and door.auth_offered(dialogue.peer, tls=True):
            return dialogue.refuse(auth_replies.TLS_FIRST)
        return dialogue.refuse(replies.NOT_OFFERED, bogus=True)
