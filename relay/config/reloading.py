"""Which settings a running daemon takes over, and which need a restart. Pure."""

from __future__ import annotations

from relay.config.held import Reloading, held
from relay.config.settings import RelaySettings
from relay.config.variables import Variable, variables

# Sections and fields that the daemon's reload puts in force. Whatever is not named here needs a restart.
_TAKEN_OVER = frozenset(
    {
        "listener",
        "listeners",
        "accounts_file",
        "console",
        "dispatch",
        "submission",
        "queue",
        "log",
        "mailbox",
        "notices",
        "oauth",
        "telemetry",
        "upstream",
        "imap",
    }
)
_NOT_TAKEN_OVER = frozenset(
    {
        ("oauth", "ca_file"),
        ("oauth", "google_client_secret"),
        ("dispatch", "login_check_s"),
        ("submission", "graph_url"),
        ("submission", "gmail_url"),
    }
)


def reloading(before: RelaySettings, wanted: RelaySettings) -> Reloading:
    """What becomes of `before` when the sources say `wanted`; the settings in it are `Held`."""
    changed, restart = list[str](), list[str]()
    for variable in variables().values():
        if held(_value(before, variable)) != held(_value(wanted, variable)):
            (changed if _is_taken_over(variable) else restart).append(variable.name)
    kept = {name: getattr(before, name) for name in type(wanted).model_fields if name not in _TAKEN_OVER}
    for section, field in _NOT_TAKEN_OVER:
        kept[section] = kept.get(section, getattr(wanted, section)).model_copy(
            update={field: getattr(getattr(before, section), field)}
        )
    return Reloading(held(wanted.model_copy(update=kept)), tuple(changed), tuple(restart))


def _is_taken_over(variable: Variable) -> bool:
    return variable.path[0] in _TAKEN_OVER and variable.path not in _NOT_TAKEN_OVER


def _value(settings: RelaySettings, variable: Variable) -> object:
    value: object = settings
    for part in variable.path:
        value = getattr(value, part)
    return value
