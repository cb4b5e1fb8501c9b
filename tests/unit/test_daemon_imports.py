"""What an idle daemon must not have loaded: each costs megabytes that only some accounts, or one start, need."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    *("alembic", "mako", "httpx", "authlib", "joserfc", "rich", "typer", "fastapi", "jinja2"),
    *("opentelemetry", "requests", "apprise"),
    *("pydantic", "pydantic_settings", "pydantic_core", "h11", "anyio", "prometheus_client", "argparse"),
    *("sqlalchemy.orm", "sqlalchemy.dialects.postgresql"),
)


def test_nothing_heavy_is_imported_for_serving() -> None:
    program = f"import sys, relay.cli.tree, relay.daemon.run; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_console_loads_no_store_and_no_keys() -> None:
    """What the actions of its API take is looked up in a fork."""
    unused = ("sqlalchemy", "cryptography", "aiosmtplib", "aiosmtpd", "alembic", "relay.control.registry")
    program = f"import sys, relay.console.__main__; print([name for name in {unused} if name in sys.modules])"
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
