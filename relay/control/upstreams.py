"""What an account's upstream must be like before its settings are kept."""

from __future__ import annotations

from relay.accounts.model import Account, Upstream
from relay.accounts.upstream import may_log_in
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
    if not may_log_in(upstream):
        raise ControlError(
            f"the password would go to {upstream.host} in clear text",
            "give --tls starttls or --tls implicit; docs/running.md tells how a site opts out for its own host",
        )


def clear_text_warning(upstream: Upstream) -> str:
    """What to tell whoever sets it; "": nothing goes in clear."""
    if upstream.tls != "none":
        return ""
    what = "password and mail go" if upstream.auth != "none" else "mail goes"
    return f"{what} to {upstream.host} in CLEAR TEXT, as it is set: relay account set {upstream.account} --tls starttls"
