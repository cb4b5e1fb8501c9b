"""Moves an account from SMTP to Microsoft Graph when its organisation refuses SMTP AUTH, if its owner allowed that."""

from __future__ import annotations

import dataclasses

from sqlalchemy import Connection

from relay.accounts import conditions, store
from relay.accounts.conditions import ConditionKind
from relay.accounts.directory import Directory
from relay.accounts.model import Account
from relay.accounts.presets import APIS, PRESETS
from relay.accounts.transitions import OPERATOR, Change, resume
from relay.control.context import Control, now_ms
from relay.control.probing import said
from relay.diagnosis.conditions import entry_of
from relay.diagnosis.responsibility import who_must_act
from relay.mail.outcome import Accepted
from relay.telemetry import get_logger

log = get_logger()

# SMTP AUTH is off whatever one signs in with; Graph does not use it.
CAUSES = frozenset({"m365-smtp-auth-disabled-tenant", "m365-smtp-auth-disabled-mailbox"})
MOVED = "moved-to-graph"  # of the catalogue: what people are told
ACTOR = "relay"


class Moving:
    """One per daemon; `rescue` is for the dispatcher. `control` acts in the relay's own name."""

    def __init__(self, control: Control) -> None:
        self._control = control.asked_by(ACTOR, lambda _: None)

    async def rescue(self, account_id: int, cause: str) -> bool:
        """True: the account uses its other transport now, and its mail goes on."""
        directory: Directory = self._control.directory
        account = directory.account(account_id)
        if account is None or cause not in CAUSES or account.fallback != "graph":
            return False
        if account.transport == "graph":
            return True  # the refusal was of a connection from before
        obstacle = await self._obstacle(account)
        if obstacle:
            log.warning("account.not_moved", account=account.address, cause=cause, reason=obstacle)
            return False

        def move(connection: Connection) -> list[Change]:
            store.update_account(connection, account_id, transport="graph")
            conditions.open_condition(
                connection,
                account_id=account_id,
                kind=ConditionKind.MOVED,
                cause=MOVED,
                who=who_must_act(entry_of(MOVED)),
                detail=entry_of(cause).cause,
                now_ms=now_ms(),
            )
            if store.get_account(connection, account_id).state_cause == OPERATOR:
                return []
            return resume(connection, account_id, now_ms=now_ms(), actor=ACTOR)

        changes = await self._control.change(
            "account.move", account.address, {"from": "smtp", "to": "graph", "cause": cause}, move
        )
        self._control.logins.renewed(account_id)  # what SMTP refused does not count any more
        self._control.went_on(changes)
        log.warning(
            "account.moved",
            account=account.address,
            cause=cause,
            detail="from SMTP to Microsoft Graph",
            to_do=f"back: relay account set {account.address} --transport smtp",
        )
        return True

    async def _obstacle(self, account: Account) -> str:
        """Why it cannot move; "": Graph takes its token."""
        if PRESETS[self._control.directory.upstream(account).provider].api != "graph":
            return "its provider has no Microsoft Graph"
        if account.auth in ("password", "none"):
            return f"it signs in with --auth {account.auth}, and {APIS['graph'].name} takes OAuth only"
        moved = dataclasses.replace(account, transport="graph")
        outcome = await self._control.transport.probe(self._control.directory.upstream(moved), lambda *_: None)
        return "" if isinstance(outcome, Accepted) else f"Graph does not take its sign-in: {said(outcome)}"
