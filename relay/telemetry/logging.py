"""The one logger of the program, and how it is set up.

Until `configure` is called (commands other than serve never do) warnings and errors go to standard error in the form
for people, and everything below is dropped; structlog is not even imported before the first line.
"""

from __future__ import annotations

import logging as standard_logging
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol, cast

from relay.telemetry.output import Output
from relay.telemetry.rendering import ConsoleRenderer, JsonRenderer

if TYPE_CHECKING:
    from relay.config.settings import LogSettings

_STDOUT, _STDERR = 1, 2
_LEVELS = ("debug", "info", "warning", "error", "critical")


class LogMethod(Protocol):
    """`event` is one of `events.EVENTS`; the keys are those the table allows. Never content, subject or secrets."""

    def __call__(self, event: str, /, **keys: Any) -> None: ...


class Logger:
    """What `get_logger` gives: the same object everywhere, so that `configure` reaches who has it already.

    Its methods are attributes holding structlog's bound methods: a call passes through no proxy.  `exception` is
    `error` with the exception being handled in the key `traceback`.
    """

    debug: LogMethod
    info: LogMethod
    warning: LogMethod
    error: LogMethod
    exception: LogMethod

    def __init__(self) -> None:
        self.debug = self.info = _drop
        self.warning = _on_first_use("warning")
        self.error = _on_first_use("error")
        self.exception = _on_first_use("exception")


def _drop(event: str, /, **keys: Any) -> None:
    """Not configured yet: nothing below warning is written."""


def _on_first_use(name: str) -> LogMethod:
    def first(event: str, /, **keys: Any) -> None:
        from relay.config.settings import (
            LogSettings,  # never for the daemon, which is configured before it says anything
        )

        configure(LogSettings(level="warning", format="console"), fd=_STDERR)
        getattr(_LOGGER, name)(event, **keys)

    return first


_LOGGER = Logger()
_outputs: list[Output] = []  # the one in use


def get_logger() -> Logger:
    """The logger; costs nothing, may be called at import."""
    return _LOGGER


def configure(settings: LogSettings, *, fd: int = _STDOUT) -> None:
    """From now on write to `fd`, from `settings.level` up. May be called again: what was pending is written first.

    What libraries say through the standard logging module at warning or above becomes `library.logged`.
    """
    import atexit

    structlog = _import_structlog()
    flush()
    terminal = os.isatty(fd)
    text = settings.format == "console" or (settings.format is None and terminal)
    renderer = ConsoleRenderer(colours=terminal) if text else JsonRenderer()
    output = Output(fd, lambda count: renderer("warning", "log.dropped", {"lines": count}))
    structlog.configure(
        processors=[cast("Any", renderer)],
        wrapper_class=_bound_logger(settings.level, renderer, output),
        logger_factory=lambda *_: output,
        cache_logger_on_first_use=False,
    )
    bound = structlog.get_logger().bind()
    _LOGGER.debug, _LOGGER.info = bound.debug, bound.info
    _LOGGER.warning, _LOGGER.error, _LOGGER.exception = bound.warning, bound.error, bound.exception
    if not _outputs:
        atexit.register(flush)
        standard_logging.getLogger().addHandler(_LibraryHandler(standard_logging.WARNING))
    _outputs[:] = [output]


def _import_structlog() -> Any:
    """structlog without Rich, which it would import for tracebacks in colour: 6 MB and 50 ms to spare."""
    unused = "rich" not in sys.modules
    if unused:
        sys.modules["rich"] = cast("Any", None)  # makes `import rich` fail as if it were not installed
    try:
        import structlog
    finally:
        if unused:
            del sys.modules["rich"]
    return structlog


def _bound_logger(level: str, renderer: JsonRenderer | ConsoleRenderer, output: Output) -> type[Any]:
    """structlog's filtering logger with a short way for what passes: one renderer, one write, no copies in between."""
    structlog = _import_structlog()
    base: Any = structlog.make_filtering_bound_logger(level)
    least = _LEVELS.index(level)

    def method(name: str, *, exception: bool = False) -> Any:
        write = output.write if _LEVELS.index(name) < _LEVELS.index("warning") else output.write_now

        def log(self: Any, event: str, /, **fields: Any) -> None:
            if exception:
                fields.setdefault("exc_info", True)
            if self._context:
                fields = {**self._context, **fields}
            write(renderer(name, event, fields))

        return log

    methods = {name: method(name) for name in _LEVELS[least:]}
    return type("RelayBoundLogger", (base,), {**methods, "exception": method("error", exception=True)})


def flush() -> None:
    """Write what is pending. Needed only before the process ends otherwise than by its interpreter's exit."""
    for output in _outputs:
        output.flush()


def recent_lines() -> list[bytes]:
    """The last lines that were written, oldest first."""
    return list(_outputs[0].recent) if _outputs else []


class _LibraryHandler(standard_logging.Handler):
    def emit(self, record: standard_logging.LogRecord) -> None:
        log = _LOGGER.error if record.levelno >= standard_logging.ERROR else _LOGGER.warning
        try:
            log("library.logged", logger=record.name, detail=record.getMessage(), exc_info=record.exc_info)
        except Exception:  # a library's broken format string is no reason to stop
            log("library.logged", logger=record.name, detail="a message that could not be formatted")
