"""Does a request with an Idempotency-Key once, and gives the first answer to whoever asks again with that key."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from relay.control.context import Control, ControlError, now_ms
from relay.credentials.keyring import KeyRing
from relay.database.schema import api_answers

KEPT_MS = 86_400_000
_MAX_ANSWER = 65_536
_SECRETS = frozenset({"token.add", "user.invite"})  # their answers hold a secret that is kept nowhere

Run = Callable[[Control, str, Mapping[str, Any]], Awaitable[Any]]


async def once(control: Control, key: str, action: str, arguments: Mapping[str, Any], run: Run) -> Any:
    """What `run` answers, or answered within a day to the same principal with the same key and request.

    Raises ControlError (conflict): the key was used for another request, or its request is still under way or was
    cut off: whether it was done is then for the asker to look up.  A refusal is not kept: the key may be used again.
    """
    asker, ring = control.actor, control.vault.ring
    request = json.dumps([action, arguments], sort_keys=True).encode()
    kept = await control.database.write(lambda connection: _begin(connection, asker, key, request, ring))
    if kept is not None:
        return kept[0]
    try:
        answer = await run(control, action, arguments)
    except ControlError:
        await control.database.write(lambda connection: _forget(connection, asker, key))
        raise
    text = json.dumps(answer)
    if action in _SECRETS or len(text) > _MAX_ANSWER:
        text = json.dumps({"repeated": True, "detail": "this was done; its answer is not kept"})
    await control.database.write(lambda connection: _end(connection, asker, key, text))
    return answer


def _begin(connection: Connection, asker: str, key: str, request: bytes, ring: KeyRing) -> list[Any] | None:
    """[the answer that was given], None: this is the first time.

    A request may hold a password, and a plain hash of it could be guessed at by whoever copies the database.
    """
    connection.execute(delete(api_answers).where(api_answers.c.at < now_ms() - KEPT_MS))
    here = (api_answers.c.principal == asker, api_answers.c.key == key)
    row = connection.execute(select(api_answers).where(*here)).one_or_none()
    if row is None:
        values = {"principal": asker, "key": key, "request_hash": ring.primary.fingerprint(request), "at": now_ms()}
        connection.execute(insert(api_answers).values(values))
        return None
    if not any(hmac.compare_digest(row.request_hash, ring.key(id_).fingerprint(request)) for id_ in ring.ids):
        raise ControlError("this Idempotency-Key was used for another request", "take a new key", "conflict")
    if row.answer is None:
        raise ControlError(
            "the first request with this key is under way, or was cut off", "look what it did", "conflict"
        )
    return [json.loads(row.answer)]


def _end(connection: Connection, asker: str, key: str, answer: str) -> None:
    here = (api_answers.c.principal == asker, api_answers.c.key == key)
    connection.execute(update(api_answers).where(*here).values(answer=answer))


def _forget(connection: Connection, asker: str, key: str) -> None:
    connection.execute(delete(api_answers).where(api_answers.c.principal == asker, api_answers.c.key == key))
