"""What is owed, what became of it, and what was said about it."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Index, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text, text

from relay.database.schema.base import Id, Milliseconds, metadata

messages = Table(
    "messages",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("account_id", Id, nullable=False),  # where the sender routed to at acceptance
    Column("reverse_path", Text, nullable=False),  # "": null
    Column("header_message_id", Text, nullable=False),
    Column("client", Text, nullable=False),  # address of the application, and its client entry if any
    Column("size", Integer, nullable=False),  # octets in wire form
    Column("eight_bit", Integer, nullable=False),
    Column("smtputf8", Integer, nullable=False),
    Column("spool", Text),  # name of the spool file; NULL: the content is a row of `contents`
    Column("accepted_at", Milliseconds, nullable=False),
    Column("original_path", Text),  # what the application said in MAIL, where reverse_path is another; NULL: the same
    Column("ret", Text),  # FULL | HDRS (RFC 3461 4.3)
    Column("envid", Text),  # xtext (RFC 3461 4.4)
    Column("answer", Text),  # direct: the application heard the verdict itself; NULL: queued
    Column("notice", Text),  # mail of our own: aftercare's kind of notice; NULL: an application's
    Column("session", Id),  # of the front door, as its log lines name it; NULL: it came in by none
    Column("repaired", Text),  # what was put right in its content, commas between; NULL: nothing
)

_spooled = text("spool IS NOT NULL")
Index("ix_messages_spool", messages.c.spool, sqlite_where=_spooled)

contents = Table(
    "contents",
    metadata,
    Column("message_id", Id, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),  # wire form; gone when the last delivery settles
)

chunks = Table(  # of large contents, where there is no spool folder: PostgreSQL
    "chunks",
    metadata,
    Column("spool", Text, nullable=False),  # as in messages
    Column("number", Integer, nullable=False),  # from 0; all but the last are of spool_rows.CHUNK octets
    Column("node", Id, nullable=False),  # that received it
    Column("at", Milliseconds, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("spool", "number"),
    sqlite_with_rowid=False,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("message_id", Id, nullable=False),
    Column("number", Integer, nullable=False),  # place among the recipients, from 0
    Column("recipient", Text, nullable=False),
    Column("account_id", Id, nullable=False),  # the lane it waits in; re-resolved at each attempt
    Column("state", Text, nullable=False),  # queue.model.State
    Column("due_at", Milliseconds, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("owner", Id),  # node that has it in memory; NULL: anyone may claim it
    Column("token", Integer, nullable=False),  # fencing token: grows with each claim
    Column("possible_duplicate", Integer, nullable=False, server_default="0"),
    Column("settled_at", Milliseconds),
    Column("notify", Text),  # NEVER, or some of SUCCESS,FAILURE,DELAY (RFC 3461 4.1)
    Column("orcpt", Text),  # address type;xtext (RFC 3461 4.2)
    PrimaryKeyConstraint("message_id", "number"),
    sqlite_with_rowid=False,
)

_unsettled = text("settled_at IS NULL")
Index(  # with all that counts ask for, so that none looks at a row; SQLite asks for `settled_at`, too, which is NULL
    "ix_deliveries_unsettled",
    deliveries.c.account_id,
    deliveries.c.due_at,
    deliveries.c.settled_at,
    deliveries.c.state,
    sqlite_where=_unsettled,
)

attempts = Table(
    "attempts",
    metadata,
    Column("message_id", Id, nullable=False),
    Column("number", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),  # from 1
    Column("at", Milliseconds, nullable=False),
    Column("account_id", Id, nullable=False),
    Column("outcome", Text, nullable=False),  # accepted | refused | unreachable | in_doubt
    Column("stage", Text, nullable=False),
    Column("code", Integer, nullable=False),  # 0: no reply
    Column("status", Text, nullable=False),
    Column("reply", Text, nullable=False),  # bounded, control bytes escaped
    Column("cause", Text, nullable=False),  # id of the catalogue entry; "" when accepted
    Column("elapsed_ms", Integer, nullable=False),
    PrimaryKeyConstraint("message_id", "number", "attempt"),
    CheckConstraint("outcome IN ('accepted', 'refused', 'unreachable', 'in_doubt')", name="outcome"),
    sqlite_with_rowid=False,
)

owed = Table(
    "owed",
    metadata,
    Column("message_id", Id, nullable=False),
    Column("number", Integer, nullable=False),  # of the delivery
    Column("kind", Text, nullable=False),  # queue.model.Owed: failed | delayed | relayed | copy (of all, number 0)
    Column("due_at", Milliseconds, nullable=False),
    Column("paid_at", Milliseconds),  # NULL: aftercare still has to tell the sender, or to decide not to
    Column("notice_id", Id),  # by which notice; NULL once paid: none was made
    Column("begun_at", Milliseconds),  # copy: an APPEND went out; NULL once paid: it was given up
    PrimaryKeyConstraint("message_id", "number", "kind"),
    sqlite_with_rowid=False,
)
_unpaid = text("paid_at IS NULL")
Index("ix_owed_unpaid", owed.c.due_at, sqlite_where=_unpaid)

notices = Table(
    "notices",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("at", Milliseconds, nullable=False),
    Column("kind", Text, nullable=False),  # aftercare's: trouble, over, bounce, test
    Column("account_id", Id),  # whom it concerns; NULL: the relay as a whole
    Column("about", Text, nullable=False),  # id of the message, or of the catalogue entry
    Column("channel", Text, nullable=False),  # mail, or the kind and place of an Apprise URL, never the URL
    Column("recipient", Text, nullable=False),  # "": a channel has none
    Column("message_id", Id),  # the mail that carries it
    Column("outcome", Text, nullable=False),  # queued | sent | failed | withheld | withdrawn
    Column("detail", Text, nullable=False),  # why; never a secret
)
Index("ix_notices_account_id_at", notices.c.account_id, notices.c.at)
Index("ix_notices_about", notices.c.about)

returned = Table(
    "returned",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("message_id", Id, nullable=False, index=True),
    Column("number", Integer),  # of the delivery; NULL: the notice names another address
    Column("recipient", Text, nullable=False),  # as the notice has it
    Column("at", Milliseconds, nullable=False),  # when it was read
    Column("host", Text, nullable=False),  # who refused it; "": not said
    Column("code", Integer, nullable=False),  # 0: not said
    Column("status", Text, nullable=False),
    Column("reply", Text, nullable=False),  # its Diagnostic-Code, bounded, escaped
    Column("cause", Text, nullable=False),  # id of the catalogue entry
)
