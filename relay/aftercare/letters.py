"""Turns words into mail of our own: header, encodings, and the marks by which nobody answers it."""

from __future__ import annotations

from dataclasses import dataclass
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage

from relay.accounts.model import Account
from relay.mail.content import stuff
from relay.mail.header import format_date
from relay.mail.ids import format_id
from relay.queue.ours import OwnMail

MARK = "X-Relay-Notice"  # whoever sees it knows that a relay wrote this, and never answers with a notice
_LONGEST_SUBJECT = 200
_LONGEST_LINE = 900  # octets; RFC 5321 4.5.3.1.6 allows 998


@dataclass(frozen=True, slots=True)
class Postmark:
    """What every mail of ours says of its origin. `hostname` is the name by which our own mark is known again."""

    hostname: str


def plain(subject: str, body: str) -> EmailMessage:
    """A mail of one text, in an encoding that passes every upstream (RFC 2045 6.7)."""
    mail = EmailMessage(policy=policy.SMTP)
    mail["Subject"] = subject[:_LONGEST_SUBJECT]
    put_text(mail, body)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834 5.2
    return mail


def put_text(part: EmailMessage, body: str) -> None:
    """Make `body` the content of a part: as it is where it may be, else quoted-printable."""
    simple = body.isascii() and all(len(line) <= _LONGEST_LINE for line in body.splitlines())
    part.set_content(body, cte="7bit" if simple else "quoted-printable")


def own_mail(
    mail: EmailMessage,
    *,
    id: int,
    kind: str,
    carrier: Account,
    recipient: str,
    postmark: Postmark,
    now: int,
    body: bytes | None = None,
) -> OwnMail:
    """`mail` with its origin, addressed, in wire form. Its Message-ID is made of `id` alone: the same every time.

    The reverse-path is the carrier's address: authenticated upstreams refuse `<>` (docs/notices.md), unless the
    account says that its does not.  `body`: of a mail that is only a header, as it is to be.
    """
    shown, domain = format_id(id), carrier.address.rpartition("@")[2]
    message_id = f"<notice.{shown}@{domain if domain.isascii() else postmark.hostname}>"
    local, _, at = carrier.address.rpartition("@")
    wide = not (carrier.address + recipient).isascii()
    mail["From"] = Address(f"Mail relay {postmark.hostname}", local, at)
    mail["To"] = f"<{recipient}>"
    mail["Date"] = format_date(now / 1000)
    mail["Message-ID"] = message_id
    mail["X-Auto-Response-Suppress"] = "All"  # MS-OXCMAIL 2.1.3.2.20: no answers, no read or delivery receipts
    mail[MARK] = f"{kind}; relay={postmark.hostname}"
    form = policy.SMTPUTF8 if wide else policy.SMTP
    if body is None:
        octets = mail.as_bytes(policy=form)
    else:
        octets = b"".join(form.fold_binary(name, value) for name, value in mail.raw_items()) + b"\r\n" + body
    # Our own trace field: the front door counts its marks, should this mail come back to it (RFC 5321 6.3).
    trace = f"Received: by {postmark.hostname} (relay {postmark.hostname})\r\n\tid {shown};\r\n\t{mail['Date']}\r\n"
    return OwnMail(
        id=id,
        kind=kind,
        account_id=carrier.id,
        reverse_path="" if carrier.null_sender else carrier.address,
        recipient=recipient,
        header_message_id=message_id,
        content=stuff(trace.encode() + octets),
        smtputf8=wide,
    )
