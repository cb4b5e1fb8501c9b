"""What a rest of a lane means to people, and who shares its cause. Pure."""

from __future__ import annotations

from relay.accounts.model import Upstream
from relay.accounts.transitions import Trouble
from relay.diagnosis.conditions import entry_of
from relay.diagnosis.responsibility import who_must_act

_OF_THE_HOST = frozenset({"tls-network", "transient", "protocol"})


def resting(cause: str, upstream: Upstream) -> Trouble:
    """`cause`: id of the entry that made the lane rest; "": several failures in a row without one."""
    entry = entry_of(cause or "unknown-failure")
    return Trouble(entry.id, entry.cause, who_must_act(entry), f"{upstream.host} port {upstream.port}")


def shared_upstream(cause: str, upstream: Upstream) -> str:
    """The key of all accounts that a failing host stops; empty when the cause is the account's own."""
    of_the_host = entry_of(cause or "unknown-failure").cls in _OF_THE_HOST
    return f"host {upstream.host}:{upstream.port}" if of_the_host else ""
