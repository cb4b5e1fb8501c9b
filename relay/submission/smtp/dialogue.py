"""The transactions of one connection: envelope, content, final dot, and whose reply is whose.

Where PIPELINING is offered the whole envelope is one write, and while mail waits the next envelope goes into the
same write as the final dot of the message before it (RFC 2920 3.1): one round trip a message.  Nothing is
written while a reply is outstanding, except for content between its own 354 and its dot, when none can be.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable
from dataclasses import replace

from relay.mail.content import FINAL_DOT
from relay.mail.errors import RelayError
from relay.mail.outcome import Accepted, InDoubt, Outcome, Refused, Stage, Unreachable
from relay.mail.reply import Reply
from relay.submission.smtp.content import CHUNK, ContentMissing, check_ending, open_stored, send_octets
from relay.submission.smtp.deadlines import Deadlines
from relay.submission.smtp.envelope import commands, objection
from relay.submission.smtp.opening import Connection
from relay.submission.smtp.replies import DATA, DOT, MAIL, RCPT, Step, WireFault, WireReply
from relay.submission.smtp.transaction import Transaction
from relay.submission.transport import Source, Submission
from relay.telemetry import get_logger

log = get_logger()


class Ending(enum.Enum):
    """Why a dialogue ended. Everything taken was reported, except for STALE."""

    IDLE = enum.auto()  # no more mail now; the connection is good
    SPENT = enum.auto()  # the connection carried as much as it may; there may be more mail
    BROKEN = enum.auto()  # the connection is gone
    STALE = enum.auto()  # as BROKEN, before anything happened for `leftover`, which another connection may take


class _Stop(Exception):
    """The connection must not be used any more; what remains undecided gets this outcome."""

    def __init__(self, outcome: Unreachable) -> None:
        self.outcome = outcome


class _Closing(Exception):
    """421: the upstream closes the connection, whatever it was asked (RFC 5321 3.8)."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply


class Dialogue:
    """Carries a source's mail over one connection. Used once."""

    def __init__(self, connection: Connection, source: Source, deadlines: Deadlines, *, most_messages: int) -> None:
        self.leftover: Submission | None = None
        self._connection, self._source, self._deadlines = connection, source, deadlines
        self._most = most_messages
        self._wire = connection.wire
        self._open: list[Transaction] = []  # taken and not reported: the current one, then the one behind its dot

    async def run(self, first: Submission) -> Ending:
        """Submit `first` and what the source gives; report all of it. Only cancellation comes out as an exception."""
        ending = None
        try:
            ending = await self._carry(first)
        except WireFault as fault:
            if fault.reply is not None:
                self._end_by_421(fault.reply)
            else:
                self._end_by_fault(fault)
        except _Closing as closing:
            self._end_by_421(closing.reply)
        except _Stop as stop:
            self._end_by_choice(stop.outcome)
        except asyncio.CancelledError:
            words = "the relay stopped before the final dot"
            self._end_by_choice(Unreachable(Stage.DATA, "lease-lost", words, counted=False))
            raise
        except Exception:  # ours; the lane must get its message back, and the daemon live on
            log.exception("daemon.fault", where="submission", account=self._connection.upstream.account)
            self._end_by_choice(Unreachable(Stage.DATA, "unknown-failure", "a fault of this program, see the log"))
        finally:
            if ending is None:
                self._wire.abort()
        if ending is not None:
            return ending
        return Ending.BROKEN if self.leftover is None else Ending.STALE

    async def _carry(self, first: Submission) -> Ending:
        transaction = self._begin(first)
        while True:
            if transaction is not None:
                transaction = await self._transact(transaction)
            elif self._connection.messages >= self._most:
                return Ending.SPENT
            elif (submission := self._source.take()) is not None:
                transaction = self._begin(submission)
            else:
                return Ending.IDLE

    # -- one message

    def _begin(self, submission: Submission) -> Transaction | None:
        """Make ready to offer it; None: it was reported instead."""
        file = None
        try:
            refusal, lines = objection(submission, self._connection), commands(submission, self._connection)
        except Exception:  # ours; the lane must get its message back
            fault = Unreachable(Stage.MAIL, "unknown-failure", "a fault of this program, see the log")
            self._source.report(submission, [fault] * len(submission.recipients))
            raise
        outcome: Outcome | None = Refused(refusal, Stage.MAIL) if refusal is not None else None
        if outcome is None and not isinstance(submission.content, bytes):
            try:
                file = open_stored(submission.content, submission.size)
            except ContentMissing as error:
                outcome = Unreachable(Stage.MAIL, "content-missing", str(error.args[0]))
        if outcome is not None:
            self._source.report(submission, [outcome] * len(submission.recipients))
            return None
        transaction = Transaction(submission, lines, file)
        self._open.append(transaction)
        return transaction

    async def _transact(self, transaction: Transaction) -> Transaction | None:
        """See one message through; the next one, if its envelope is out already."""
        following = None
        connection = self._connection
        if not transaction.behind_dot:
            connection.messages += 1
            if connection.pipelining:
                self._wire.check()
                self._wire.put(*self._envelope(transaction))
        connection.needs_reset = True
        submission = transaction.submission
        if await self._offer(transaction):
            submission.mark("envelope")
            following = await self._deliver(transaction)
            submission.mark("content")
            await self._learn_verdict(transaction)
            submission.mark("reply")
        self._report(transaction)
        return following

    def _envelope(self, transaction: Transaction) -> tuple[bytes, list[Step]]:
        trace = self._wire.trace
        if trace is not None:
            for line, _ in transaction.lines:
                trace(">", line)
        return b"".join([line for line, _ in transaction.lines]), [step for _, step in transaction.lines]

    async def _offer(self, transaction: Transaction) -> bool:
        """The replies to the envelope, to the last one. True: the upstream waits for the content."""
        wire, outcomes, deadlines = self._wire, transaction.outcomes, self._deadlines
        replies = wire.replies
        one_by_one = not self._connection.pipelining
        mail_refused, number, accepted = False, 0, 0
        for line, step in transaction.lines:
            if one_by_one:
                if mail_refused or (step is DATA and not accepted):
                    return False
                wire.check()
                if wire.trace is not None:
                    wire.trace(">", line)
                wire.put(line, (step,))
            if step is DATA:
                transaction.stage = Stage.DATA
                timeout_s = deadlines.data_s
            else:
                timeout_s = deadlines.command_s
            reply = replies.popleft() if replies else await wire.reply(timeout_s)
            if reply.code == 421:
                raise _Closing(reply.reply())
            if step is RCPT:
                if reply.code < 400:
                    accepted += 1
                elif not mail_refused:
                    outcomes[number] = Refused(reply.reply(), Stage.RCPT)
                number += 1
            elif step is MAIL:
                if reply.code == 503 and transaction.after_refusal:  # it kept the other envelope, and got no RSET
                    raise WireFault("connection-lost", f"out of step: {reply.code} {reply.text()[:200]}")
                transaction.touched = True
                if reply.code >= 400:
                    mail_refused = True
                    transaction.fill(Refused(reply.reply(), Stage.MAIL))
                else:
                    transaction.stage = Stage.RCPT
            elif step is DATA:
                return self._may_send(transaction, reply, wanted=bool(accepted) and not mail_refused)
            elif reply.code >= 400:  # RSET
                raise WireFault("connection-lost", f"RSET was refused: {reply.code} {reply.text()[:200]}")
        return False

    def _may_send(self, transaction: Transaction, reply: WireReply, *, wanted: bool) -> bool:
        if reply.code >= 400:
            if wanted:
                transaction.fill(Refused(reply.reply(), Stage.DATA))
            return False
        if not wanted:  # RFC 2920 3.1 would send an empty message; not here: no dot without a recipient
            raise WireFault("protocol-error", "354 although no recipient was accepted")
        return True

    async def _deliver(self, transaction: Transaction) -> Transaction | None:
        """Content, dot, and behind it the next envelope, if there is one and it may go there."""
        wire, submission, source = self._wire, transaction.submission, self._source
        content, block_s = submission.content, self._deadlines.block_s
        wire.check()
        transaction.body_begun = True
        front = b""
        try:
            if transaction.file is not None:
                await transaction.file.send(wire, block_s=block_s)
            else:
                assert isinstance(content, bytes)
                if len(content) > CHUNK:
                    await send_octets(wire, content, block_s=block_s)
                else:
                    check_ending(content[-2:])
                    front = content
        except ContentMissing as error:
            raise _Stop(Unreachable(Stage.DATA, "content-missing", str(error.args[0]))) from error
        allowed = source.before_dot(submission)
        if not isinstance(allowed, bool):
            if front:
                wire.put(front)
                front = b""
            allowed = await self._marked(allowed)
            wire.check()
        if not allowed:
            raise _Stop(Unreachable(Stage.DATA, "lease-lost", "stopped before the final dot"))
        following = self._look_ahead()
        behind, steps = self._envelope(following) if following is not None else (b"", [])
        transaction.dot_out = True
        transaction.stage = Stage.DONE
        if front or behind:  # one write: a dot in a segment of its own waits for a delayed ACK
            wire.put(b"".join((front, FINAL_DOT, behind)), (DOT, *steps))
        else:
            wire.put(FINAL_DOT, (DOT,))
        return following

    async def _marked(self, mark: Awaitable[bool]) -> bool:
        try:
            async with asyncio.timeout(self._deadlines.done_s):
                return await mark
        except (RelayError, TimeoutError) as error:
            raise _Stop(Unreachable(Stage.DATA, "lease-lost", f"the mark before the dot failed: {error!r}")) from error

    def _look_ahead(self) -> Transaction | None:
        """The next message for this connection, its envelope ready to go behind a dot."""
        connection = self._connection
        if not connection.pipelining:
            return None
        connection.needs_reset = False  # RFC 5321 4.1.1.4: the end of data clears the buffers, whatever its reply
        while connection.messages < self._most:
            submission = self._source.take()
            if submission is None:
                return None
            following = self._begin(submission)
            if following is not None:
                following.behind_dot = True
                connection.messages += 1
                return following
        return None

    async def _learn_verdict(self, transaction: Transaction) -> None:
        """The reply to the final dot."""
        wire = self._wire
        reply = wire.replies.popleft() if wire.replies else await wire.reply(self._deadlines.done_s)
        if reply.code < 400:
            self._connection.needs_reset = False
            transaction.fill(Accepted(reply.reply()))
            return
        self._connection.needs_reset = True
        transaction.fill(Refused(reply.reply(), Stage.DONE))
        for following in self._open[1:]:
            following.after_refusal = True
        if reply.code == 421:
            self._report(transaction)
            raise _Closing(reply.reply())

    # -- reporting

    def _report(self, transaction: Transaction) -> None:
        self._open.remove(transaction)
        transaction.close()
        outcomes = [outcome for outcome in transaction.outcomes if outcome is not None]
        assert len(outcomes) == len(transaction.outcomes)
        self._source.report(transaction.submission, outcomes)

    def _end_by_fault(self, fault: WireFault) -> None:
        gone = fault.reason == "connection-lost"
        for transaction in list(self._open):
            if transaction.dot_out:
                self._conclude(transaction, InDoubt("reply-lost" if gone else fault.reason, fault.detail))
            elif not self._put_back(transaction, fault.reason, fault.detail, gone=gone):
                self._conclude(transaction, Unreachable(transaction.stage, fault.reason, fault.detail))

    def _end_by_421(self, reply: Reply) -> None:
        for transaction in list(self._open):
            if transaction.dot_out:  # not in the place of the answer to the dot
                self._conclude(transaction, InDoubt("reply-lost", str(reply)))
            elif not self._put_back(transaction, "connection-lost", str(reply), gone=True):
                self._conclude(transaction, Refused(reply, transaction.stage))

    def _end_by_choice(self, outcome: Unreachable) -> None:
        for transaction in list(self._open):
            if transaction.dot_out:
                words = "stopped while waiting for the reply to the final dot"
                self._conclude(transaction, InDoubt("reply-lost", words))
            elif not self._put_back(transaction, outcome.reason, outcome.detail, gone=False):
                self._conclude(transaction, replace(outcome, stage=transaction.stage))

    def _conclude(self, transaction: Transaction, outcome: Outcome) -> None:
        transaction.fill(outcome)
        self._report(transaction)

    def _put_back(self, transaction: Transaction, reason: str, detail: str, *, gone: bool) -> bool:
        """True: the connection's end was no attempt at this message, and that was said."""
        if transaction.behind_dot and not transaction.body_begun:
            if gone:
                reason = "upstream-closed"
            self._conclude(transaction, Unreachable(transaction.stage, reason, detail, counted=False))
            return True
        worn = self._connection.reused or self._connection.messages > 1
        if gone and worn and not transaction.touched:  # closed while nobody looked: not even worth a report
            self._open.remove(transaction)
            transaction.close()
            self.leftover = transaction.submission
            return True
        return False
