"""The source of the program against the tables: every event, key and metric it uses is written down."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.diagnosis.explanation import explain
from relay.telemetry.counters import METRICS
from relay.telemetry.events import COMMON_KEYS, EVENTS, RESERVED_KEYS
from relay.telemetry.redaction import secret_key

SOURCE = Path(__file__).resolve().parents[2] / "relay"
LEVELS = {"debug", "info", "warning", "error", "exception"}
METRIC_CALLS = {"count": "counter", "gauge": "gauge", "observe": "histogram"}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def names_an_entry(value: ast.expr) -> bool:
    """Is it the id of an entry: an attribute that holds one, or one written out?"""
    if isinstance(value, ast.Constant):
        return isinstance(value.value, str) and explain(value.value).id == value.value
    return isinstance(value, ast.Attribute) and value.attr in ("id", "cause")


def remedies(tree: ast.AST) -> list[str]:
    """`remedy` is the id of an entry, `to_do` words: what else calls in a file give."""
    found = []
    for call in calls(tree):
        for key in call.keywords:
            event = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
            if key.arg == "remedy" and event in EVENTS and not names_an_entry(key.value):
                found.append(f"line {key.value.lineno}: remedy is the id of an entry; words are to_do")
            if key.arg == "to_do" and isinstance(key.value, ast.Constant) and " " not in str(key.value.value):
                found.append(f"line {key.value.lineno}: to_do is for people")
    return found


def logged(tree: ast.AST) -> Iterator[tuple[str, set[str], int]]:
    """Event, keys and line of each `log.<level>("...", ...)`, also `(log.a if x else log.b)("...")`."""
    for call in calls(tree):
        function = call.func.body if isinstance(call.func, ast.IfExp) else call.func
        if (
            isinstance(function, ast.Attribute)
            and function.attr in LEVELS
            and isinstance(function.value, ast.Name)
            and function.value.id in ("log", "_log", "logger")
            and call.args
            and isinstance(call.args[0], ast.Constant)
        ):
            yield str(call.args[0].value), {key.arg for key in call.keywords if key.arg}, call.lineno


def complaints(tree: ast.AST) -> list[str]:
    found = remedies(tree)
    for event, keys, line in logged(tree):
        if event not in EVENTS:
            found.append(f"line {line}: {event} is not in telemetry/events.py")
        elif unknown := keys - COMMON_KEYS - EVENTS[event].keys:
            found.append(f"line {line}: {event} may not have {', '.join(sorted(unknown))}")
    for call in calls(tree):
        name = getattr(call.func, "id", None)
        if name in METRIC_CALLS and call.args and isinstance(call.args[0], ast.Constant):
            metric = METRICS.get(str(call.args[0].value))
            labels = {key.arg for key in call.keywords if key.arg}
            if metric is None or metric.kind != METRIC_CALLS[name]:
                found.append(f"line {call.lineno}: {call.args[0].value} is no {METRIC_CALLS[name]} in counters.py")
            elif labels != set(metric.labels) and not any(key.arg is None for key in call.keywords):
                found.append(f"line {call.lineno}: {call.args[0].value} has the labels {metric.labels}")
    return found


def test_the_source_uses_only_what_is_written_down() -> None:
    found = {path: complaints(ast.parse(path.read_text())) for path in SOURCE.rglob("*.py")}
    assert found
    assert {str(path): slips for path, slips in found.items() if slips} == {}


@pytest.mark.parametrize(
    "source",
    [
        "log.info('mesage.accepted')",
        "log.info('message.accepted', subject='x')",
        "(log.info if x else log.warning)('nope.nope')",
        "count('relay_mesages_accepted_total')",
        "count('relay_deliveries_total', account='x')",
        "gauge('relay_messages_accepted_total', 3)",
        "log.info('key.created', remedy='back it up')",
        "log.info('key.created', remedy='no-such-entry')",
        "log.info('key.created', remedy=f'relay {x}')",
        "log.info('key.created', to_do='stage-timeout')",
    ],
)
def test_the_search_finds_slips(source: str) -> None:
    assert len(complaints(ast.parse(source))) == 1


def test_the_names_users_rely_on_are_there() -> None:
    names = {
        "session": "opened closed",
        "transaction": "rejected",
        "message": "accepted",
        "attempt": "accepted refused unreachable in_doubt",
        "delivery": "relayed deferred bounced held expired",
        "account": "suspended resumed",
        "token": "refreshed refused",
        "key": "rotated",
        "daemon": "started ready stopping stopped",
    }
    assert {f"{noun}.{verb}" for noun, verbs in names.items() for verb in verbs.split()} <= set(EVENTS)
    keys = {"message_id", "account", "sender", "recipient", "client", "code", "status", "reply", "cause", "remedy"}
    assert keys | {"attempt", "elapsed_ms", "possible_duplicate"} <= COMMON_KEYS


def test_the_table_is_well_formed() -> None:
    for name, event in EVENTS.items():
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", name)
        assert event.level in LEVELS - {"exception"}
        assert event.meaning
        keys = event.keys | COMMON_KEYS
        assert not keys & RESERVED_KEYS
        assert not [key for key in keys if secret_key(key)], "such a key would always be masked"
