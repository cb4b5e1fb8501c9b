"""The commands of one session that need no waiting, and the state they build up (RFC 5321 4.1.1)."""

from __future__ import annotations

from collections.abc import Callable

from relay.accounts.model import Client
from relay.listener import replies
from relay.listener.door import Door
from relay.listener.policy import Peer, Sender
from relay.mail.address import Malformed, RcptArgument, parse_mail, parse_rcpt
from relay.mail.dsn import NO_MESSAGE_REQUEST, MessageRequest, RecipientRequest
from relay.mail.ids import format_id
from relay.mail.reply import Reply
from relay.telemetry import get_logger
from relay.telemetry.counters import count
from relay.telemetry.rejected import remember

log = get_logger()

MAX_BOGUS = 10  # lines that are no command
MAX_ERRORS = 100  # permanent refusals
_MAX_NAME = 255  # octets of what a client calls itself
_HTTP = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"CONNECT", b"TRACE", b"PRI"})

_NOBODY = Sender("", None)
_OK = replies.OK.to_wire()
_SENDER_OK = replies.SENDER_OK.to_wire()
_RECIPIENT_OK = replies.RECIPIENT_OK.to_wire()


class Transaction:
    """One MAIL, RCPT..., DATA. It is `open` once MAIL was taken; `sender.route` None: the header will decide."""

    __slots__ = ("eight_bit", "open", "original_path", "recipients", "request", "sender", "smtputf8")

    def __init__(self) -> None:
        self.open = False
        self.sender = _NOBODY
        self.original_path = ""  # as the application said it
        self.recipients: dict[str, RecipientRequest] = {}  # in order, each once
        self.request: MessageRequest = NO_MESSAGE_REQUEST
        self.eight_bit = False
        self.smtputf8 = False


class Dialogue:
    """Turns a command line into a reply. `closing` is why the session ends behind that reply, when it does."""

    def __init__(self, door: Door, peer: Peer, *, tls: bool) -> None:
        """`tls`: it is up already."""
        self._door = door
        self.peer = peer
        self.session = door.queue.new_id()
        self.session_id = format_id(self.session)  # for the log
        self._bogus = 0
        self._errors = 0
        self.helo = ""
        self.extended = False
        self.tls = tls
        self.transaction = Transaction()
        self.closing = ""

    def answer(self, verb: bytes, argument: bytes) -> bytes:
        """The reply to one command, on the wire. `verb` in upper case; `argument` without spaces at its ends."""
        command = _COMMANDS.get(verb)
        if command is None:
            return self._unknown(verb)
        try:
            return command(self, argument)
        except Malformed as error:
            said, is_sender = replies.said(argument), verb == b"MAIL"
            return self.refuse(
                replies.malformed(error, argument, sender=is_sender),
                sender=said if is_sender else self.transaction.original_path,
                recipient="" if is_sender else said,
            )

    def reset(self, *, tls: bool = False) -> None:
        """Forget the transaction; under new `tls` also who the client said it was (RFC 3207 4.2)."""
        self.transaction = Transaction()
        if tls:
            self.tls, self.helo = True, ""

    def refuse(self, reply: Reply, *, sender: str = "", recipient: str = "", bogus: bool = False) -> bytes:
        """Say no, log it, count it; too many end the session."""
        client = self.peer.client
        to_do = replies.to_do_of(reply, client.name if client is not None else "NAME")
        count("relay_messages_rejected_total", reason=reply.status)
        log.info(
            "transaction.rejected",
            session_id=self.session_id,
            code=reply.code,
            status=reply.status,
            reply=reply.text,
            client=self.peer.name,
            sender=sender,
            recipient=recipient,
            **to_do,
        )
        recipients = (recipient,) if recipient else self.transaction.recipients
        said = reply.code, reply.status, reply.text, to_do.get("to_do", "")
        remember(self.peer.name, self.peer.host, sender, recipients, *said)
        self._bogus += bogus
        self._errors += reply.permanent
        if self._bogus >= MAX_BOGUS or self._errors >= MAX_ERRORS:
            return self._hang_up(replies.TOO_MANY_ERRORS, "errors")
        return reply.to_wire()

    def _hang_up(self, reply: Reply, reason: str) -> bytes:
        self.closing = reason
        return reply.to_wire()

    # -- commands ------------------------------------------------------------------------------------------

    def _helo(self, argument: bytes) -> bytes:
        return self._introduce(argument, extended=False, reply=self._door.helo)

    def _ehlo(self, argument: bytes) -> bytes:
        return self._introduce(argument, extended=True, reply=self._door.ehlo(self.peer, tls=self.tls))

    def _introduce(self, argument: bytes, *, extended: bool, reply: bytes) -> bytes:
        # Any name will do: old programs say what they like, and nothing is decided by it.
        if len(argument) > _MAX_NAME or not (argument or "helo-syntax" in self.peer.tolerance):
            return self.refuse(replies.HELO_NAME)
        self.helo = argument.decode("utf-8", "replace") or "unknown"
        self.extended = extended
        if self.transaction.open:
            self.transaction = Transaction()
        return reply

    def _mail(self, argument: bytes) -> bytes:
        if not self.helo:
            return self.refuse(replies.HELO_FIRST)
        transaction, door, peer = self.transaction, self._door, self.peer
        if transaction.open:
            return self.refuse(replies.MAIL_TWICE)
        if door.tls_required and not self.tls:
            return self.refuse(replies.TLS_FIRST)
        address, size, eight_bit, smtputf8, request = parse_mail(
            argument, extended=self.extended, tolerance=peer.tolerance
        )
        limit = door.settings.max_message_bytes
        if size > limit:
            return self.refuse(replies.too_large(limit), sender=address)
        sender = door.policy.sender(peer, address, size)
        if isinstance(sender, Reply):
            return self.refuse(sender, sender=address or "<>")
        transaction.open = True
        transaction.sender = sender
        transaction.original_path = address
        transaction.request = request
        transaction.eight_bit = eight_bit
        transaction.smtputf8 = smtputf8
        return _SENDER_OK

    def _rcpt(self, argument: bytes) -> bytes:
        transaction = self.transaction
        if not transaction.open:
            return self.refuse(replies.MAIL_FIRST if self.helo else replies.HELO_FIRST)
        recipient, request = self._recipient(argument, transaction)
        recipients = transaction.recipients
        if recipient not in recipients:
            if len(recipients) >= self._door.settings.max_recipients:
                # RFC 5321 4.5.3.1.10.  Not logged: the client will send the message to these again.
                return replies.TOO_MANY_RECIPIENTS.to_wire()
            refusal = self._door.policy.recipient(self.peer, recipient)
            if refusal is not None:
                return self.refuse(refusal, sender=transaction.original_path, recipient=recipient)
        recipients[recipient] = request
        return _RECIPIENT_OK

    def _recipient(self, argument: bytes, transaction: Transaction) -> RcptArgument:
        """The argument of RCPT; a recipient without a domain gets the client's."""
        peer = self.peer
        found = parse_rcpt(argument, smtputf8=transaction.smtputf8, extended=self.extended, tolerance=peer.tolerance)
        if "@" in found.address or peer.client is None:
            return found
        whole = f"TO:<{found.address}@{peer.client.default_domain}>".encode()
        return parse_rcpt(whole, smtputf8=transaction.smtputf8)._replace(request=found.request)

    def may_authenticate(self, argument: bytes) -> bytes | None:
        """Why AUTH cannot be taken now (RFC 4954 4); None: it can."""
        if not self.helo:  # HELO will do: devices log in behind it, though RFC 4954 is for EHLO
            return self.refuse(replies.HELO_FIRST)
        if self.transaction.open or self.peer.authenticated:
            return self.refuse(replies.AUTH_NOT_NOW)
        return None if argument else self.refuse(replies.AUTH_MECHANISM)

    def authenticated(self, client: Client) -> None:
        """The client logged in: from here it is treated as its entry says."""
        self.peer = self._door.policy.identify(self.peer.host, client, authenticated=True)

    def may_send_data(self, argument: bytes) -> bytes | None:
        """Why DATA cannot be taken now; None: it can."""
        if argument:
            return self.refuse(replies.NO_ARGUMENT)
        if not self.transaction.recipients:
            return self.refuse(replies.RECIPIENT_FIRST if self.helo else replies.HELO_FIRST)
        return None

    def may_start_tls(self, argument: bytes, *, alone: bool) -> bytes | None:
        """Why STARTTLS cannot be taken now; None: it can. `alone`: nothing was sent behind it."""
        if self._door.tls_context is None:
            return self.refuse(replies.NOT_OFFERED, bogus=True)
        if argument:
            return self.refuse(replies.NO_ARGUMENT)
        if self.tls:
            return self.refuse(replies.TLS_ALREADY)
        if not alone:  # RFC 3207 6: what was injected in front of the handshake must not count as said under it
            self.closing = "tls injection"
            return self.refuse(replies.TLS_NOT_ALONE)
        return None

    def _rset(self, argument: bytes) -> bytes:
        if argument:
            return self.refuse(replies.NO_ARGUMENT)
        self.transaction = Transaction()
        return _OK

    def _noop(self, argument: bytes) -> bytes:
        return _OK

    def _vrfy(self, argument: bytes) -> bytes:
        return replies.CANNOT_VERIFY.to_wire()

    def _help(self, argument: bytes) -> bytes:
        return replies.HELP.to_wire()

    def _quit(self, argument: bytes) -> bytes:
        if argument:
            return self.refuse(replies.NO_ARGUMENT)
        return self._hang_up(replies.BYE, "quit")

    def _not_offered(self, argument: bytes) -> bytes:
        return self.refuse(replies.NOT_OFFERED, bogus=True)

    def _unknown(self, verb: bytes) -> bytes:
        if verb in _HTTP:  # a browser made to talk to us: nothing of what follows may be obeyed
            self.refuse(replies.NOT_SMTP)
            return self._hang_up(replies.NOT_SMTP, "not smtp")
        return self.refuse(replies.UNKNOWN_COMMAND, bogus=True)


_COMMANDS: dict[bytes, Callable[[Dialogue, bytes], bytes]] = {
    b"HELO": Dialogue._helo,
    b"EHLO": Dialogue._ehlo,
    b"MAIL": Dialogue._mail,
    b"RCPT": Dialogue._rcpt,
    b"RSET": Dialogue._rset,
    b"NOOP": Dialogue._noop,
    b"VRFY": Dialogue._vrfy,
    b"HELP": Dialogue._help,
    b"QUIT": Dialogue._quit,
    **dict.fromkeys((b"AUTH", b"BDAT", b"ETRN", b"EXPN", b"SAML", b"SEND", b"SOML", b"TURN"), Dialogue._not_offered),
}
