"""docs/logs.md: a row for each event, as the vocabulary has it; and ten questions that its sample hour answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from relay.telemetry.events import COMMON_KEYS, EVENTS, RESERVED_KEYS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "logs.md").read_text()
SAMPLE = [json.loads(line) for line in (DOCS / "logs-sample.jsonl").read_text().splitlines()]
ROW = re.compile(r"\| `([a-z]+\.[a-z_]+)` \| (\w+) \| (.+?) \| (.+?) \| (.+) \|")


def _rows() -> dict[str, tuple[str, str, str]]:
    rows = {match[1]: (match[2], match[3], match[4]) for match in map(ROW.fullmatch, PAGE.splitlines()) if match}
    assert all(match[5].strip() for match in map(ROW.fullmatch, PAGE.splitlines()) if match)
    return rows


def test_every_event_has_its_row() -> None:
    wanted = {
        name: (event.level, event.meaning, ", ".join(f"`{key}`" for key in sorted(event.keys)) or "–")
        for name, event in EVENTS.items()
    }
    found = _rows()
    missing = [
        f"| `{name}` | {level} | {meaning} | {keys} | what to do |"
        for name, (level, meaning, keys) in wanted.items()
        if found.get(name) != (level, meaning, keys)
    ]
    assert not missing, "write these rows into docs/logs.md:\n" + "\n".join(missing)
    assert found.keys() <= wanted.keys(), "docs/logs.md has events that there are not"


def test_every_common_key_is_explained() -> None:
    explained = set(re.findall(r"`([a-z_]+)`", PAGE.partition("## Keys")[2].partition("## Events")[0]))
    assert COMMON_KEYS - explained <= {"delivery_id", "account_id"}  # not in use at level info


def test_the_sample_is_of_this_vocabulary() -> None:
    for line in SAMPLE:
        assert line.keys() <= EVENTS[line["event"]].keys | COMMON_KEYS | RESERVED_KEYS


def _one(event: str, **keys: Any) -> dict[str, Any]:
    found = [line for line in SAMPLE if line["event"] == event and keys.items() <= line.items()]
    assert len(found) == 1, found
    return found[0]


def test_ten_questions_are_answered_by_the_sample() -> None:
    relayed = _one("delivery.relayed", recipient="ann@example.org")
    assert (relayed["timestamp"][11:23], relayed["elapsed_ms"]) == ("18:53:12.355", 36)  # 1
    rejected = _one("transaction.rejected")
    assert rejected["sender"] == "ceo@example.com"  # 2
    assert _one("session.opened", session_id=rejected["session_id"])["client"] == "erp"
    bounced = _one("delivery.bounced")
    assert (bounced["recipient"], bounced["code"]) == ("gone@example.org", 550)  # 3
    assert _one("delivery.relayed", recipient="bob@example.org")["message_id"] == bounced["message_id"]
    assert "slowing down" in _one("delivery.deferred", recipient="carl@example.org")["cause"]  # 4
    carl = _one("delivery.relayed", recipient="carl@example.org")
    assert (carl["attempt"], carl["elapsed_ms"]) == (2, 3431)
    twice = {
        line["recipient"] for line in SAMPLE if line["event"] == "delivery.relayed" and "possible_duplicate" in line
    }
    assert twice == {"dora@example.org"}  # 5
    suspended = _one("account.suspended")  # 6
    assert suspended["reply"].startswith("535")
    assert suspended["to_do"] == f"Store the right password: relay account set-password {suspended['account']}"
    assert len([line for line in SAMPLE if line["event"] == "attempt.refused" and line["stage"] == "auth"]) == 1
    assert _one("delivery.relayed", message_id="0ams5e8k80000")["elapsed_ms"] == 1639  # 7
    assert _one("account.resumed")["cause"] == "by ops"  # 8
    assert _one("attempt.unreachable")["account"] == "news@example.com"  # 9
    assert _one("daemon.started")["version"] == "0.1.0"  # 10
    assert (_one("daemon.stopping")["reason"], _one("daemon.stopped")["code"]) == ("signal", 0)
