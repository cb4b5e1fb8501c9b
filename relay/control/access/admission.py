"""Lets a request from the web in, or not: whose session or token it carries, and whether they may do that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.accounts.normalise import normalise
from relay.control.access import rows
from relay.control.access.model import NOT_BY_TOKEN, OWNED, PERSONAL, SCOPE_OF, Principal, needs_proof
from relay.control.access.proof import demand, left_s
from relay.control.context import Control, ControlError, now_ms


async def admitted(
    control: Control, credential: Mapping[str, str], action: str, arguments: Mapping[str, Any]
) -> Control:
    """The control for this one action, in the name of who carries `credential` ({"session": …} or {"token": …}).

    Raises ControlError: unauthenticated when it is nobody's, forbidden when it does not reach so far.
    """
    principal = await principal_of(control, credential)
    if action != "principal":
        check(control, principal, action, arguments)
    return control.in_name_of(principal)


async def principal_of(control: Control, credential: Mapping[str, str]) -> Principal:
    """Whose session or token it is."""
    idle_ms = int(control.settings.console.idle_s * 1000)
    match credential:
        case {"session": str(token)}:
            found = await control.database.read(lambda c: rows.session(c, token, now_ms(), idle_ms))
            note = rows.touch
        case {"token": str(token)}:
            found = await control.database.read(lambda c: rows.api_token(c, token, now_ms()))
            note = rows.token_used
        case _:
            found = None
    if found is None:
        raise ControlError("nobody is signed in, or the session has ended", "sign in again", "unauthenticated")
    principal, stale = found
    if stale:
        await control.database.write(lambda connection: note(connection, token, now_ms()))
    return principal


def check(control: Control, principal: Principal, action: str, arguments: Mapping[str, Any]) -> None:
    """Raises ControlError (forbidden, proof) unless this principal may do this with these arguments."""
    _check_reach(control, principal, action, arguments)
    if principal.person and needs_proof(action, arguments):
        demand(principal)


def _check_reach(control: Control, principal: Principal, action: str, arguments: Mapping[str, Any]) -> None:
    if action in PERSONAL and principal.person:
        return
    if action in NOT_BY_TOKEN and not principal.person:
        raise ControlError("a token cannot do this", "sign in to the console, or use the command line", "forbidden")
    if principal.accounts is None:
        if SCOPE_OF.get(action) not in principal.scopes:
            raise ControlError("this is not allowed here", "use a token with the scope it needs", "forbidden")
        return
    wanted = arguments.get("account")
    allowed = OWNED.get(action)
    if allowed is None or not arguments.keys() <= allowed or not isinstance(wanted, str):
        raise ControlError("this is for administrators", "ask one of them", "forbidden")
    mine = {control.directory.account(account_id) for account_id in principal.accounts}
    if normalise(wanted) not in {normalise(account.address) for account in mine if account is not None}:
        raise ControlError("there is no such mailbox among yours", "ask an administrator to grant it", "forbidden")


async def principal(control: Control) -> dict[str, Any]:
    """Who asks: for the web process, at every request it serves."""
    found = control.principal
    if found is None:
        raise ControlError("nobody is signed in", "sign in", "unauthenticated")
    return {**found.facts(), "csrf": found.csrf, "proof_s": left_s(found)}
