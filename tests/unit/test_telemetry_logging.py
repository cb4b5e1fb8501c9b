"""Log lines: one event, one line, whatever is in it; nothing lost, nothing torn, nothing forged."""

from __future__ import annotations

import json
import logging as standard_logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.settings import LogSettings
from relay.telemetry import configure, flush, get_logger
from relay.telemetry.cleaning import MAX_FIELD
from relay.telemetry.rendering import ConsoleRenderer, JsonRenderer

ROOT = Path(__file__).resolve().parents[2]
log = get_logger()


class Lines:
    """A log file, read back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def raw(self) -> list[str]:
        return self.path.read_text("utf-8").split("\n")[:-1]

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.raw()]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Lines]]:
    """Logging into a file, in the form asked for; what it was before comes back afterwards."""
    before = dict(vars(log))
    opened: list[int] = []

    def begin(form: str = "json", level: str = "debug") -> Lines:
        path = tmp_path / f"log.{len(opened)}"
        opened.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        configure(LogSettings.model_validate({"format": form, "level": level}), fd=opened[-1])
        return Lines(path)

    yield begin
    flush()
    vars(log).update(before)
    configure(LogSettings(level="warning", format="console"), fd=2)
    for fd in opened:
        os.close(fd)


def rendered(**fields: object) -> dict[str, object]:
    """One event through the JSON renderer."""
    line = JsonRenderer()("info", "message.accepted", dict(fields))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    found: dict[str, object] = json.loads(line)
    return found


def test_json_lines(start: Callable[..., Lines]) -> None:
    lines = start()
    log.info("message.accepted", message_id="0abc", size=4096, elapsed_ms=1.5, possible_duplicate=False, code=None)
    (event,) = lines.events()
    assert list(event)[:3] == ["event", "level", "timestamp"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(event.pop("timestamp")))
    assert event == {
        "event": "message.accepted",
        "level": "info",
        "message_id": "0abc",
        "size": 4096,
        "elapsed_ms": 1.5,
        "possible_duplicate": False,
        "code": None,
    }


def test_an_event_without_keys(start: Callable[..., Lines]) -> None:
    lines = start()
    log.warning("daemon.stopping")
    assert [(event["event"], event["level"]) for event in lines.events()] == [("daemon.stopping", "warning")]


def test_the_level_filters(start: Callable[..., Lines]) -> None:
    lines = start(level="warning")
    log.debug("session.line", line="EHLO x")
    log.info("session.opened")
    log.warning("clients.open")
    log.error("daemon.fault")
    assert [event["event"] for event in lines.events()] == ["clients.open", "daemon.fault"]


def test_configured_again_everybody_has_the_new_form(start: Callable[..., Lines]) -> None:
    info_of_the_module = get_logger()
    first = start()
    info_of_the_module.info("session.opened")
    second = start()
    info_of_the_module.info("session.closed")
    assert [event["event"] for event in first.events()] == ["session.opened"]
    assert [event["event"] for event in second.events()] == ["session.closed"]


def test_console_lines(start: Callable[..., Lines]) -> None:
    lines = start("console")
    log.info("attempt.refused", account="billing", reply='550 5.1.1 no "such" user', code=550, status="")
    (line,) = lines.raw()
    assert re.fullmatch(
        r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} info    attempt\.refused        "
        r'account=billing reply="550 5\.1\.1 no \\"such\\" user" code=550 status=""',
        line,
    )


def test_colours_only_on_a_terminal() -> None:
    assert b"\x1b[" not in ConsoleRenderer(colours=False)("error", "daemon.fault", {"where": "x"})
    assert b"\x1b[31m" in ConsoleRenderer(colours=True)("error", "daemon.fault", {"where": "x"})


def test_without_being_configured_only_trouble_is_told_on_standard_error() -> None:
    program = """
from relay.telemetry import get_logger
import sys
log = get_logger()
log.debug("session.line"); log.info("session.opened")
assert "structlog" not in sys.modules
log.warning("clients.open", remedy="add one")
log.info("session.closed")
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1
    assert 'clients.open           remedy="add one"' in ran.stderr


# -- forging (promise 25)

NASTY = list("\n\r\t\0\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\u200b\ufeff\ud800")


@pytest.mark.parametrize("character", NASTY)
def test_what_could_forge_a_line_comes_out_escaped(character: str) -> None:
    for renderer in (JsonRenderer(), ConsoleRenderer(colours=False)):
        line = renderer("info", "session.opened", {"client": f"a{character}b"}).decode("utf-8")
        assert line[:-1].isprintable()
    assert rendered(client=f"a{character}b")["client"] == "a" + character.encode("unicode_escape").decode() + "b"


@given(st.text(max_size=3000), st.sampled_from(["client", "reply", "line", "recipient"]))
def test_any_text_makes_one_printable_bounded_line(text: str, key: str) -> None:
    value = rendered(**{key: text})[key]
    assert isinstance(value, str)
    assert value.isprintable()
    assert len(value.encode("utf-8")) <= MAX_FIELD
    console = ConsoleRenderer(colours=False)("info", "session.opened", {key: text})
    assert console.count(b"\n") == 1
    assert console[:-1].decode("utf-8").isprintable()


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), max_size=200))
def test_printable_text_comes_out_as_it_is(text: str) -> None:
    assert rendered(reply=text)["reply"] == text or text.isprintable() is False


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50) | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(st.text(min_size=1, max_size=80), JSON_LIKE, max_size=6))
def test_any_keys_and_values_make_one_line(fields: dict[str, object]) -> None:
    event = rendered(**{f"x{key}": value for key, value in fields.items()})
    assert (event["event"], event["level"]) == ("message.accepted", "info")


def test_a_blank_or_equals_sign_cannot_forge_a_key_for_people() -> None:
    line = ConsoleRenderer(colours=False)("info", "session.opened", {"client": "x account=root"}).decode()
    assert 'client="x account=root"' in line


def test_reserved_keys_cannot_be_overwritten() -> None:
    event = rendered(level="error", timestamp="1970")
    assert event["level"] == "info"
    assert str(event["timestamp"]).startswith("20")
    assert (event["level_"], event["timestamp_"]) == ("error", "1970")


def test_long_values_are_cut_and_say_so() -> None:
    value = str(rendered(reply="x" * 5000)["reply"])
    assert len(value.encode("utf-8")) <= MAX_FIELD
    assert value.endswith("x…[5000 in all]")
    assert rendered(reply="x" * MAX_FIELD)["reply"] == "x" * MAX_FIELD
    assert len(str(rendered(reply="ü" * 5000)["reply"]).encode("utf-8")) <= MAX_FIELD
    assert len(json.dumps(rendered(recipients=["a@example.org"] * 5000)["recipients"])) <= MAX_FIELD + 2
    assert len(rendered(**{f"key{n}": n for n in range(500)})) <= 50


def test_an_integer_too_large_for_json_is_still_a_line() -> None:
    assert rendered(size=1 << 70)["size"] == hex(1 << 70)


# -- exceptions


def test_an_exception_is_one_bounded_field_without_locals(start: Callable[..., Lines]) -> None:
    lines = start()

    def inner() -> None:
        local_secret = "hunter2-in-a-local"
        raise ValueError("bad\nvalue" + "x" * 9999) if local_secret else RuntimeError

    try:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        log.exception("daemon.fault", where="test")
    (event,) = lines.events()
    text = str(event["traceback"])
    assert text.startswith("RuntimeError: outer at tests/unit/test_telemetry_logging.py:")
    assert " <- ValueError: bad\\nvaluexxx" in text
    assert " inner" in text
    assert len(text.encode()) <= MAX_FIELD
    assert "hunter2" not in lines.path.read_text()
    assert (event["level"], event["where"], "exc_info" in event) == ("error", "test", False)


def test_an_exception_may_be_handed_over(start: Callable[..., Lines]) -> None:
    lines = start()
    log.error("daemon.fault", exc_info=OSError(28, "No space left on device"))
    log.error("daemon.fault", exc_info=ExceptionGroup("two", [ValueError("a"), KeyError("b")]))
    log.error("daemon.fault", detail=ValueError("as a value"))
    first, second, third = lines.events()
    assert first["traceback"] == "OSError: [Errno 28] No space left on device"
    assert second["traceback"] == "ExceptionGroup: two (2 sub-exceptions) [ValueError: a; KeyError: 'b']"
    assert third["detail"] == "ValueError: as a value"


def test_libraries_speak_in_the_same_form(start: Callable[..., Lines]) -> None:
    lines = start()
    standard_logging.getLogger("some.library").warning("peer said %r\nand more", "x")
    standard_logging.getLogger("asyncio").info("not interesting")
    (ours,) = [handler for handler in standard_logging.getLogger().handlers if "relay" in type(handler).__module__]
    ours.handle(
        standard_logging.LogRecord("asyncio", standard_logging.ERROR, "x.py", 1, "broken %d", ("format",), None)
    )
    first, second = lines.events()
    assert (first["event"], first["level"], first["logger"]) == ("library.logged", "warning", "some.library")
    assert first["detail"] == "peer said 'x'\\nand more"
    assert (second["level"], second["detail"]) == ("error", "a message that could not be formatted")
