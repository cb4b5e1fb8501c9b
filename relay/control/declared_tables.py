"""The form of an accounts file, made from the settings that accounts and clients have, so that neither falls behind."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError
from pydantic import create_model as make_model

from relay.accounts.checking import AccountSettings, checked_from_policy, checked_settings
from relay.accounts.client_settings import ClientSettings, checked_client
from relay.accounts.errors import BadSetting
from relay.accounts.normalise import BadAddress
from relay.config.wording import Wrong, shown
from relay.control.oauth_settings import KEYS, SETTINGS
from relay.credentials.references import Reference, parse_reference
from relay.credentials.ways import PROXY_PASSWORD

Check = Callable[[Any], Mapping[str, Any]]

_ACCOUNT_HINTS = {name: hint for name, hint in get_type_hints(AccountSettings).items() if name != "oauth"}
_CLIENT_HINTS = {name: hint for name, hint in get_type_hints(ClientSettings).items() if name != "password_hash"}
ACCOUNT, CLIENT = tuple(_ACCOUNT_HINTS), tuple(_CLIENT_HINTS)
SECRETS = ("password", PROXY_PASSWORD, *KEYS)

_OPTION = re.compile(r"(?<!\S)--([a-z][a-z-]*[a-z])(?: F\b)?")
_KEY_OF = {
    "password-file": "password",
    "proxy-password-file": "proxy_password",
    "client-secret-file": "client_secret",
    "certificate-file": "client_certificate",
    "service-account-file": "service_account",
    "network": "networks",
    "sender": "senders",
    "recipient": "recipients",
    "deny": "denied",
    "map": "sender_map",
}
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_MOST_PROBLEMS = 100
_FORMS = {
    "int_type": "a whole number without quotes",
    "string_type": "a text in quotes",
    "bool_type": "true or false, without quotes",
    "list_type": "a list in brackets",
    "sequence_type": "a list in brackets",
    "sequence_str": "a list in brackets",
    "tuple_type": 'a table such as { "root@localhost" = "app@example.com" }',
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


class Table(BaseModel):
    """A table of the file; TOML says which type a value has, so none is turned into another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    def given(self, names: Iterable[str]) -> dict[str, Any]:
        """What is said of `names`."""
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


def _refusing(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`check`, with its errors as pydantic carries them."""

    def checked(value: Any) -> Any:
        try:
            return check(value)
        except (BadSetting, BadAddress) as error:
            raise Wrong("", told(error)) from None

    return checked


def _table(name: str, hints: Mapping[str, Any], check: Check, **more: Any) -> type[Table]:
    """`check` takes and gives settings by name, one at a time."""
    fields: dict[str, Any] = {}
    for key, hint in hints.items():
        fields[key] = (Annotated[hint, AfterValidator(_refusing(partial(_checked_alone, check, key)))], None)
    return make_model(name, __base__=Table, **fields, **more)


def _checked_alone(check: Check, key: str, value: Any) -> Any:
    return check({key: value})[key]


def _reference(value: Any) -> Reference:
    try:
        return parse_reference(value)
    except ValueError as error:
        raise Wrong("", str(error)) from None


def _short_sender(value: Any) -> Any:
    """`"@example.com" = "billing@example.com"` is short for a table."""
    return {"account": value} if isinstance(value, str) else value


def _sender_map(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, dict) else value


_SECRET = Annotated[Any, PlainValidator(_reference)]
_MAP = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_sender_map)]
_FROM = Annotated[str, AfterValidator(_refusing(checked_from_policy)), Field(alias="from")]

AccountTable = _table(
    "AccountTable",
    _ACCOUNT_HINTS,
    checked_settings,
    **dict.fromkeys((*SETTINGS, "secret_expires"), (str, "")),
    **dict.fromkeys(SECRETS, (_SECRET, None)),
    sender=(bool, True),
)
ClientTable = _table(
    "ClientTable",
    {**_CLIENT_HINTS, "sender_map": _MAP},
    checked_client,
    password=(_SECRET, None),
)
SenderTable = make_model("SenderTable", __base__=Table, account=(str, ...), from_policy=(_FROM, "keep"))
FileTable = make_model(
    "FileTable",
    __base__=Table,
    accounts=(dict[str, AccountTable], {}),  # type: ignore[valid-type]
    senders=(dict[str, Annotated[SenderTable, BeforeValidator(_short_sender)]], {}),  # type: ignore[valid-type]
    clients=(dict[str, ClientTable], {}),  # type: ignore[valid-type]
)
_TABLES = {"accounts": AccountTable, "senders": SenderTable, "clients": ClientTable}


def lines_of(error: ValidationError) -> list[str]:
    """`table.key: what was wrong; the right form` for each problem, one a key; no value of a secret."""
    lines: dict[str, str] = {}
    for entry in error.errors(include_url=False)[:_MOST_PROBLEMS]:
        path = tuple(entry["loc"])
        where = ".".join(key_of(str(part)) for part in path[:3])
        lines.setdefault(where, f"{where}: {_line(entry, path)}")
    return list(lines.values())


def _line(entry: Any, path: tuple[int | str, ...]) -> str:
    cause = entry.get("ctx", {}).get("error")
    if isinstance(cause, Wrong):
        return cause.text
    kind = entry["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(path[-1]), _names(path), n=1)
        remedy = f"did you mean {near[0]}?" if near else "docs/accounts-file.md lists those there are"
        return f"there is no such key; {remedy}"
    if kind == "missing":
        return "is missing; give it"
    value = _value(entry["input"])
    if kind == "literal_error":
        return f"{value} cannot be; give {entry['ctx']['expected'].replace(chr(39), chr(34))}"
    return f"{value} cannot be; give {_FORMS.get(kind, 'a value of the right form')}"


def _names(path: tuple[int | str, ...]) -> list[str]:
    if len(path) == 1:
        return list(_TABLES)
    model = _TABLES.get(str(path[0]), FileTable)
    return [field.alias or name for name, field in model.model_fields.items()]


def _value(value: object) -> str:
    if isinstance(value, str):
        return f'"{shown(value)}"'
    if isinstance(value, int | float):
        return shown(value)
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return "a value of this kind"


def key_of(name: str) -> str:
    """A key as TOML has it: in quotes where it needs them."""
    return name if _BARE.fullmatch(name) else f'"{shown(name, 254)}"'


def told(error: BadSetting | BadAddress) -> str:
    """What was wrong, and the right form."""
    match error:
        case BadSetting(value=value, remedy=remedy) if value in ("", None):
            text = f"{error.field} is missing; {remedy}"
        case BadSetting(value=value, remedy=remedy):
            text = f"{shown(value, 254)} cannot be; {remedy}"
        case _:
            text = f"{shown(error.text, 254)} is not possible here; {error.remedy}"
    return with_keys(text)


def with_keys(text: str) -> str:
    """A line that was made for the command line, with the keys of the file in place of its options."""
    text = text.replace(", or - for standard input", "")
    return _OPTION.sub(lambda option: _KEY_OF.get(option[1], option[1].replace("-", "_")), text)
