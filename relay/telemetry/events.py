"""The event vocabulary: every name a log line may have, and the keys that may stand beside it.

A test reads the source of the program and fails on a name or key that is not here.  Levels: `info` is normal, refusals
of an upstream included; `warning`: an operator may have to act; `error`: we are broken; `debug`: protocol lines.
Renaming an event or key is a breaking change for those who search their logs.
"""

from __future__ import annotations

from typing import NamedTuple

COMMON_KEYS = frozenset(
    # who and what it is about
    {"message_id", "delivery_id", "session_id", "account", "account_id", "sender", "recipient", "recipients", "client"}
    # what the other side said, and what that means
    | {"code", "status", "reply", "stage", "cause", "remedy", "to_do", "who", "attempt", "retry_in_s"}
    | {"possible_duplicate"}
    # circumstances
    | {"elapsed_ms", "reason", "detail", "where", "path", "host", "port", "size", "exc_info"}
)  # fmt: skip
RESERVED_KEYS = frozenset({"event", "level", "timestamp"})  # written by the renderer


class Event(NamedTuple):
    """`level` is the usual one; a name may also be logged at another. `keys` are those beside COMMON_KEYS."""

    level: str
    meaning: str
    keys: frozenset[str] = frozenset()


def _event(level: str, meaning: str, *keys: str) -> Event:
    return Event(level, meaning, frozenset(keys))


EVENTS: dict[str, Event] = {
    # the program
    "daemon.started": _event("info", "the process has begun", "version", "python", "pid"),
    "daemon.ready": _event("info", "the front door is open", "doors", "accounts", "queued"),
    "daemon.reloaded": _event("info", "the settings were read again and are in force", "settings", "doors"),
    "daemon.reload_refused": _event("error", "the new settings cannot be: the old ones stay in force"),
    "daemon.clock_set": _event(
        "warning", "the clock was set, while this ran or before; ages and waits of mail follow it", "by_s"
    ),
    "daemon.stopping": _event("info", "no new mail is taken; deliveries under way may finish", "signal"),
    "daemon.stopped": _event("info", "all is closed"),
    "daemon.fault": _event("error", "a bug or an impossible state; the daemon lives on", "traceback"),
    "settings.doubtful": _event("warning", "allowed, but deserves a look at every start"),
    "library.logged": _event("warning", "a library spoke through the standard logging module", "logger", "traceback"),
    "settings.restart_needed": _event("warning", "changed, and counts from the next start on only", "settings"),
    "log.dropped": _event("warning", "nobody read the log fast enough, or it could not be written", "lines"),
    "traces.failed": _event("warning", "the collector of traces takes none; mail goes on"),
    "traces.recovered": _event("info", "the collector of traces takes them again"),
    # front door
    "listener.started": _event("info", "a front door listens", "tls"),
    "listener.stopped": _event("info", "a front door is closed"),
    "listener.refused": _event("warning", "a connection was turned away before the greeting"),
    "listener.certificate": _event("warning", "a certificate changed: it was read again, or could not be"),
    "session.tls_failed": _event("info", "a TLS handshake at the front door failed"),
    "session.authenticated": _event("info", "a client logged in"),
    "session.opened": _event("info", "an application connected", "door"),
    "session.closed": _event("info", "it left, or was told to", "messages", "bytes", "rejected", "tls"),
    "session.line": _event("debug", "a protocol line of the front door", "line", "direction"),
    "transaction.rejected": _event("info", "an application was told no"),
    "transaction.aborted": _event("info", "an application went away in the middle of a transaction", "bytes"),
    "message.accepted": _event("info", "durable, and ours from the 250 on", "repaired", "original_sender"),
    "message.unanswered": _event("warning", "accepted, but the 250 could not be written: it may come again"),
    # queue and store
    "queue.recovered": _event("warning", "what an earlier process left unfinished", "queued", "in_doubt", "swept"),
    "queue.swept": _event("info", "history past its days is gone", "messages", "files"),
    "storage.full": _event("error", "no room; mail is answered with 452", "free_bytes", "floor_bytes"),
    "storage.failed": _event("error", "the store could not make something durable"),
    "storage.lost": _event("error", "a sync failed: nothing is certain any more, the process ends"),
    "storage.regained": _event("info", "the connection to PostgreSQL is there again"),
    "storage.recovered": _event("info", "there is room again", "free_bytes"),
    "database.migrated": _event("info", "the schema was brought to this program's", "revision"),
    # deliveries
    "attempt.accepted": _event("info", "an upstream took the message"),
    "attempt.refused": _event("info", "an upstream said no"),
    "attempt.unreachable": _event("info", "no usable answer, and no final dot was sent"),
    "attempt.in_doubt": _event("warning", "the final dot was sent and its reply never came"),
    "delivery.relayed": _event("info", "done: an upstream is responsible"),
    "delivery.deferred": _event("info", "to be tried again", "due_at"),
    "delivery.bounced": _event("warning", "refused for good"),
    "delivery.held": _event("warning", "waits for an operator"),
    "delivery.expired": _event("warning", "its lifetime is over"),
    "delivery.delayed": _event("warning", "waits longer than its sender would expect"),
    "delivery.returned": _event("warning", "an upstream took it, and it came back"),
    "delivery.released": _event("info", "an operator let it go on"),
    "delivery.removed": _event("info", "an operator took it out"),
    "delivery.fenced": _event("error", "another node took over; this one's result does not count"),
    # several nodes on one store
    "node.joined": _event("info", "this daemon is a node of the fleet from now on", "node", "name"),
    "node.left": _event("info", "an orderly end: what this node held is anybody's", "node", "name"),
    "node.lost": _event("error", "the others took this node for dead: what it held is theirs; it joins anew", "node"),
    "node.buried": _event("warning", "a node was not heard of: what it held is anybody's", "node", "name", "in_doubt"),
    "node.leads": _event("info", "this node does the periodic jobs from now on", "node"),
    "node.follows": _event("info", "another node does the periodic jobs", "node"),
    "node.deaf": _event("warning", "the connection that hears the other nodes broke; it is made again"),
    "node.misheard": _event("warning", "a call that this program does not understand: is another node newer?"),
    "node.silent": _event("warning", "another node did not answer in time"),
    "lease.taken": _event("info", "this node submits for an account from now on", "fence"),
    "lease.released": _event("info", "this node does not submit for an account any more"),
    # accounts and their upstreams
    "account.suspended": _event("error", "its mail waits for the owner or an operator", "waiting"),
    "account.resumed": _event("info", "its mail goes again"),
    "account.moved": _event("warning", "its mail goes by another transport now, as it was allowed to"),
    "account.not_moved": _event("warning", "it was allowed to move to another transport, and could not"),
    "account.resting": _event("info", "its upstream asked for a pause", "waiting", "until"),
    "account.recovered": _event("info", "its upstream takes its mail again"),
    "account.checked": _event("info", "the login of an account without mail was tried"),
    "accounts.changed": _event("info", "what another node changed is in force here", "accounts", "senders", "clients"),
    "accounts.applied": _event("info", "the accounts file changed what is registered", "added", "changed", "removed"),
    "accounts.refused": _event("error", "the accounts file cannot be applied: what is registered stays as it was"),
    "clients.open": _event("warning", "no client is defined: any allowed network may use any registered sender"),
    "upstream.connected": _event("debug", "a connection upstream is open and logged in", "tls", "mechanism"),
    "upstream.closed": _event("debug", "a connection upstream is closed", "messages"),
    "upstream.line": _event("debug", "a protocol line of the back door, AUTH masked", "line", "direction"),
    "upstream.cleartext": _event("warning", "an upstream is used without TLS, as somebody set it"),
    # mail of our own
    "notice.queued": _event("info", "people are told something by mail", "kind", "channel"),
    "notice.sent": _event("info", "people were told something by a chat, webhook or pager", "kind", "channel"),
    "notice.failed": _event("warning", "people could not be told this way", "kind", "channel"),
    "notice.withheld": _event("info", "a notice was not made, or waits", "kind", "channel"),
    # mailboxes
    "mailbox.failed": _event(
        "warning", "an account's mailbox cannot be read or written; its mail goes out all the same"
    ),
    "mailbox.recovered": _event("info", "an account's mailbox can be opened again"),
    "copy.filed": _event("info", "what was relayed lies in the mailbox's folder for sent mail"),
    "copy.given_up": _event("warning", "what was relayed was not filed in the mailbox; it was delivered all the same"),
    # secrets
    "token.refreshed": _event("info", "a new access token", "expires_in_s"),
    "token.refused": _event("warning", "the provider gave no token"),
    "credential.expiring": _event("warning", "a secret, certificate or sign-in ends soon", "expires_at", "days_left"),
    "key.created": _event("warning", "a first key was made: back it up", "key_id"),
    "key.rotated": _event("info", "another key is primary", "key_id", "resealed", "unreadable"),
    "key.dropped": _event("info", "a key is gone", "key_id"),
    # operators
    "control.refused": _event("warning", "a command to the daemon was not understood or not allowed", "command"),
    "control.done": _event("info", "an operator's command was carried out", "command", "operator"),
    # the web
    "console.started": _event("info", "the console listens"),
    "console.unavailable": _event("error", "the console cannot listen; mail goes on"),
    "console.ended": _event("error", "the console's process ended by itself; it is started again"),
    "console.login": _event("info", "somebody signed in to the console", "operator"),
    "console.refused": _event("warning", "somebody was not let in to the console", "operator"),
}
