"""Whether an account's mailbox can be opened at all, for those who want it read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.accounts.model import Account, Upstream
from relay.accounts.upstream import imap_of
from relay.control.refusal import ControlError

if TYPE_CHECKING:
    from relay.config.settings import ImapDefaults


def check_mailbox(account: Account, upstream: Upstream, defaults: ImapDefaults) -> None:
    """Refuse to look for bounces, or to file copies, in a mailbox that nobody can log in to."""
    if account.bounces is not None:
        wanted = f"--bounces {account.bounces.lower()}"
    elif account.sent_copy == "yes":
        wanted = "--sent-copy yes"
    else:
        return
    if account.auth == "none":
        raise ControlError(
            f"{wanted}: {account.address} logs in with nothing", "a mailbox needs a password or a sign-in"
        )
    if imap_of(account, upstream, defaults) is None:
        raise ControlError(f"{wanted}: no IMAP server is known for {account.address}", "give --imap-host HOST as well")
