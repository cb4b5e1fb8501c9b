"""The kinds of value a setting can have: how each is read from text, and how its right form is told to people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from relay.config.wording import Wrong, shown

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Form:
    """`<value> is not {noun}; give {right}`: the words of an error line and of the example file."""

    noun: str
    right: str


class Section(BaseModel):
    """What every section of the settings has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


_YES = frozenset({"y", "yes", "true", "1"})
_NO = frozenset({"n", "no", "false", "0"})


def yes_no(value: object) -> object:
    """True or False for Y, yes, true, 1 and N, no, false, 0 in any case; anything else raises ValueError."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError("neither yes nor no")


def items(value: object) -> object:
    """The members of a list given as `a,b,c` or as a JSON list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        import json

        members = json.loads(value)
        return tuple(members)
    return tuple(member for member in (part.strip() for part in value.split(",")) if member)


def _networks(value: object) -> object:
    members = items(value)
    if not isinstance(members, Sequence) or isinstance(members, str):
        return members
    return tuple(_network(member) for member in members)


def _network(value: object) -> Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    text = str(value)
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        raise Wrong("", f"{shown(text)} is not a network; give addresses or CIDR blocks such as 10.0.0.0/8") from None
    raise Wrong("", f"{shown(text)} has host bits set; give {loose}")


_NEXT_URL = re.compile(r",\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")  # a comma may be part of the URL before it
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}://[!-~]{1,2000}")


def _urls(value: object) -> object:
    """URLs as secrets. What is wrong with one is said without it."""
    if isinstance(value, str):
        value = items(value) if value.lstrip().startswith("[") else _NEXT_URL.split(value.strip())
    if not isinstance(value, Sequence):
        return value
    members = [member.get_secret_value() if isinstance(member, SecretStr) else str(member).strip() for member in value]
    for number, member in enumerate(members, 1):
        if not _URL.fullmatch(member):
            raise Wrong("", f"URL number {number} is not of the form scheme://…; see the Apprise documentation")
    return tuple(SecretStr(member) for member in members)


def _addresses(value: object) -> object:
    members = items(value)
    if not isinstance(members, Sequence):
        return members
    for member in members:
        if not _ADDRESS.fullmatch(str(member)):
            raise Wrong("", f"{shown(member)} is not a mail address; give one such as postmaster@example.com")
    return members


# One mailbox without brackets or a display name; what it goes to decides whether it exists.
_ADDRESS = re.compile(r"[^\s@<>\"(),;:\\]{1,64}@[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9.\u0080-\U0010ffff-]{0,253})")


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _version(value: object) -> object:
    return str(value) if isinstance(value, float | int) else value  # 1.2 in a JSON list is a number


def _path(value: object) -> object:
    return Path(value).expanduser() if isinstance(value, str) else value


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise Wrong("", f"{shown(str(path))} does not exist or is not a file; give the path of a readable file")
    return path.absolute()


YesNo = Annotated[bool, BeforeValidator(yes_no), Form("yes or no", "Y or N (yes, no, true, false, 1, 0)")]
Port = Annotated[int, Field(ge=0, le=65535), Form("a port", "a number from 1 to 65535")]  # 0: any free one, for tests
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Form("a time in seconds", "a number above 0, in seconds")]
SecondsOrZero = Annotated[
    float, Field(ge=0, allow_inf_nan=False), Form("a time in seconds", "0 or a number above, in seconds")
]
Count = Annotated[int, Field(ge=1, le=1_000_000), Form("a count", "a whole number from 1 to 1000000")]
Octets = Annotated[int, Field(ge=0, le=1 << 50), Form("a size in bytes", "a whole number of bytes, without a unit")]
SomeOctets = Annotated[
    int, Field(ge=1024, le=1 << 50), Form("a size in bytes", "a whole number of bytes, 1024 or more, without a unit")
]
Directory = Annotated[
    Path, BeforeValidator(_path), AfterValidator(Path.absolute), Form("a folder", "the path of a folder")
]
ExistingFile = Annotated[
    Path, BeforeValidator(_path), AfterValidator(_existing_file), Form("a file", "the path of a readable file")
]
Networks = Annotated[
    tuple[Network, ...],
    BeforeValidator(_networks),
    Form("a list of networks", "CIDR blocks with commas between, or a JSON list"),
]
# Letters, digits, dots, hyphens (RFC 1123 2.1), colons and brackets for literal addresses: nothing that could break a
# protocol line.
Host = Annotated[
    str,
    Field(
        min_length=1,
        max_length=255,
        pattern=r"^(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?|\[?[0-9A-Fa-f:.]+\]?)$",
    ),
    Form("a host", "a host name or an address, without port or scheme"),
]
LogFormat = Annotated[Literal["console", "json"], BeforeValidator(_lower), Form("a log format", "console or json")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(_lower),
    Form("a log level", "debug, info, warning or error"),
]
Tls = Literal["starttls", "implicit", "none"]
DoorTls = Annotated[
    Literal["none", "starttls", "required", "implicit"],
    BeforeValidator(_lower),
    Form("a kind of TLS", "none, starttls, required or implicit"),
]
TlsVersion = Annotated[
    Literal["1.0", "1.1", "1.2", "1.3"], BeforeValidator(_version), Form("a version of TLS", "1.0, 1.1, 1.2 or 1.3")
]
SocketPath = Annotated[
    Path, BeforeValidator(_path), AfterValidator(Path.absolute), Form("a socket", "the path of a Unix socket")
]
FileMode = Annotated[
    str, Field(pattern="^0?[0-7]{3}$"), Form("an access mode", "three octal digits such as 666 or 660")
]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"),
    Form("a name", "up to 64 letters, digits, dots, hyphens and underscores"),
]
Addresses = Annotated[
    tuple[str, ...],
    BeforeValidator(_addresses),
    Form("a list of mail addresses", "addresses with commas between, or a JSON list"),
]
OptionalAddress = Annotated[
    str, Field(pattern=rf"^(?:{_ADDRESS.pattern})?$"), Form("a mail address", "one such as mailer@example.com")
]
Urls = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(_urls),
    Form("a list of URLs", "URLs with commas between, or a JSON list"),
]
