"""Libraries that only some settings need: which extra of the package brings them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from relay.mail.errors import RelayError

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings

_OTEL = ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk")


class ExtraMissing(RelayError):
    """A setting needs a library that is not installed: the setting, and the extra that has it."""

    def __init__(self, setting: str, extra: str) -> None:
        super().__init__(
            f"{setting}: its library is not installed; pip install 'authrelay[{extra}]', from a checkout "
            "make install EXTRAS=yes; or leave it out"
        )
        self.setting, self.extra = setting, extra


def require_extras(settings: RelaySettings) -> None:
    """Are the libraries there that these settings need? Loads none of them. Raises ExtraMissing."""
    if settings.telemetry.otlp_endpoint and not _is_there(*_OTEL):
        raise ExtraMissing("RELAY_TELEMETRY__OTLP_ENDPOINT", "otel")
    if settings.notices.urls and not _is_there("apprise"):
        raise ExtraMissing("RELAY_NOTICES__URLS", "notify")
    if settings.database.postgresql:
        require_driver()


def require_driver() -> None:
    """Is there what a store in PostgreSQL needs? Raises ExtraMissing."""
    if not _is_there("psycopg"):
        raise ExtraMissing("RELAY_DATABASE__URL", "postgres")


def _is_there(*modules: str) -> bool:
    try:
        return all(find_spec(module) is not None for module in modules)
    except ImportError:  # of a package around it
        return False
