"""The event vocabulary, logging, redaction, counters."""

from relay.telemetry.logging import Logger, configure, flush, get_logger

__all__ = ["Logger", "configure", "flush", "get_logger"]
