"""What an account's upstream must be like before its settings are kept."""

from __future__ import annotations

from ipaddress import ip_address

from relay.accounts.model import Account, Upstream
from relay.control.context import Control
from relay.control.mailboxes import check_mailbox
from relay.control.refusal import ControlError
from relay.control.transports import check_transport


def checked_upstream(control: Control, account: Account) -> Upstream:
    """Where the mail of `account`, as it will be, goes. Raises ControlError when it cannot go there."""
    upstream = control.directory.upstream(account)
    _check_clear_text(upstream)
    check_transport(account, upstream)
    check_mailbox(account, upstream, control.settings.imap)
    return upstream


def _check_clear_text(upstream: Upstream) -> None:
    """A password or token never travels in clear, except to this very machine."""
    if upstream.tls == "none" and upstream.auth != "none" and not _is_here(upstream.host):
        raise ControlError(
            f"the password would go to {upstream.host} in clear text", "give --tls starttls or --tls implicit"
        )


def _is_here(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
