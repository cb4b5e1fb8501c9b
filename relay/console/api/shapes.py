"""What the answers of the API look like: a schema for each action, open to members that come later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer"}
_YES: Schema = {"type": "boolean"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_TIME: Schema = {"type": ["string", "null"], "format": "date-time", "description": "UTC; null: never, or not known"}
_MAYBE: Schema = {"type": ["string", "null"]}
_KINDS: Mapping[str, Schema] = {
    "text": _TEXT,
    "count": _COUNT,
    "yes": _YES,
    "texts": _TEXTS,
    "time": _TIME,
    "maybe": _MAYBE,
    "facts": {"type": "object"},
}


def _object(**members: str) -> Schema:
    """Members by their kinds; all of them are always there."""
    return {
        "type": "object",
        "required": list(members),
        "properties": {name: _KINDS[kind] for name, kind in members.items()},
        "additionalProperties": True,
    }


def _named(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(name: str) -> Schema:
    return {"type": "array", "items": _named(name)}


SCHEMAS: Mapping[str, Schema] = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457; `remedy` says what to do, `errors` which fields are wrong",
        "required": ["type", "title", "status"],
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": _COUNT,
            "detail": _TEXT,
            "remedy": _TEXT,
            "errors": {"type": "array", "items": _object(field="text", problem="text")},
        },
        "example": {
            "type": "about:blank",
            "title": "not found",
            "status": 404,
            "detail": "there is no account x@example.com",
            "remedy": "`relay account list` shows them",
        },
    },
    "Account": _object(
        address="text",
        provider="text",
        host="text",
        port="count",
        tls="text",
        login="text",
        auth="text",
        transport="text",
        fallback="text",
        in_doubt="text",
        path="text",
        owner="text",
        null_sender="yes",
        bounces="maybe",
        sent_copy="text",
        files_copies="yes",
        max_connections="count",
        per_minute="count",
        per_day="count",
        state="text",
        state_since="time",
        who="maybe",
        senders="texts",
        waiting="count",
    ),
    "Login": _object(address="text", auth="text", uses_password="yes", password_until="maybe"),  # noqa: S106
    "Sender": _object(pattern="text", account="text", **{"from": "text"}),
    "Route": _object(account="text", rule="text", why="text"),
    "Client": _object(name="text", networks="texts", senders="texts", answer="text", tolerate="texts"),
    "Delivery": _object(
        id="text",
        place="text",
        sender="text",
        recipient="text",
        account="text",
        state="text",
        attempts="count",
        accepted_at="time",
        next_attempt_at="time",
        settled_at="time",
        account_suspended="yes",
        possible_duplicate="yes",
        size="count",
        reply="text",
        cause="text",
    ),
    "Message": _object(
        id="text",
        sender="text",
        account="text",
        client="text",
        size="count",
        accepted_at="time",
        session_id="maybe",
        repaired="texts",
        repairs="texts",
        trace_id="maybe",
    ),
    "Done": _object(changed="count", suspended="texts"),
    "Tested": _object(account="text", to="text", ok="yes", reply="text", cause="text", remedy="texts", steps="facts"),
    "Rejection": _object(
        at="time",
        client="text",
        host="text",
        sender="text",
        recipients="texts",
        code="count",
        status="text",
        reply="text",
        remedy="text",
    ),
    "Explanation": _object(id="text", who="text", what_happens="text", cause="text", remedy="texts"),
    "Counted": _object(deliveries="count", messages="count"),
    "Summary": _object(deliveries="count", oldest_s="count", states="facts"),
    "Overview": _object(at_ms="count", hour="facts", queue="facts", oldest_s="count", accounts="facts", ready="yes"),
    "Line": _object(item="text", status="text", text="text"),
    "Key": _object(id="text", primary="yes", secrets="count"),
    "User": _object(name="text", role="text", second_factor="yes", accounts="texts"),
    "Token": _object(name="text", scopes="texts", expires_at="time", used_at="time"),
    "AuditEntry": _object(at="time", actor="text", action="text", target="text", detail="facts"),
    "Notice": _object(at="time", kind="text", account="text", channel="text", recipient="text", outcome="text"),
}
SCHEMAS["Tested"]["properties"]["steps"] = {"type": "array", "items": _object(step="text", ok="yes", detail="text")}

ANSWERS: Mapping[str, Schema] = {
    "overview": _named("Overview"),
    "account.list": _list("Account"),
    "account.show": _named("Account"),
    "account.logins": _list("Login"),
    "account.test": _named("Tested"),
    "sender.list": _list("Sender"),
    "sender.which": _named("Route"),
    "client.list": _list("Client"),
    "queue.list": _list("Delivery"),
    "queue.show": {"allOf": [_named("Message"), {"properties": {"deliveries": _list("Delivery")}}]},
    "queue.summary": _named("Summary"),
    "queue.count": _named("Counted"),
    **{f"queue.{action}": _named("Done") for action in ("hold", "release", "retry", "remove")},
    "trace": {"type": "array", "items": {"allOf": [_named("Message"), {"properties": {"events": {"type": "array"}}}]}},
    "rejected.list": _list("Rejection"),
    "explain": _named("Explanation"),
    "check": _list("Line"),
    "key.list": _list("Key"),
    "user.list": _list("User"),
    "token.list": _list("Token"),
    "audit": _list("AuditEntry"),
    "notice.list": _list("Notice"),
}

EXAMPLES: Mapping[str, dict[str, Any]] = {
    "account.add": {"address": "erp@example.com", "provider": "m365", "password": "the mailbox's password"},
    "account.set": {"per_minute": 25},
    "account.set_password": {"password": "the mailbox's password"},
    "sender.add": {"pattern": "@example.com", "account": "erp@example.com"},
    "client.add": {"name": "erp", "networks": ["127.0.0.0/8"], "senders": ["erp@example.com"]},
    "client.try": {"address": "127.0.0.1", "sender": "erp@example.com", "recipient": "ann@example.org"},
    "queue.count": {"action": "retry", "filters": {"account": "erp@example.com"}},
    "queue.retry": {"filters": {"account": "erp@example.com"}},
    "user.add": {"name": "ann@example.com", "role": "owner", "accounts": ["erp@example.com"]},
    "token.add": {"name": "nagios", "scopes": ["read"], "days": 365},
}
