"""SMTP_AUTH_* and IMAP_*: the names campus administrators know, read into upstream and IMAP defaults.

SMTP_AUTH_SSL and SMTP_AUTH_TLS together say how the connection is protected:

- SSL=Y: TLS from the first byte, port 465 unless given, whatever TLS says (TLS=Y is its default and asks for no less;
  TLS=N says "no STARTTLS", which is true then).  With port 587 or 25 it contradicts: those speak STARTTLS.
- SSL blank or N, TLS blank or Y: STARTTLS, port 587 unless given.  With port 465 it contradicts.
- TLS=N with SSL=N, both written out: plain text.  That is the only way to it, and `check.warnings` names it at every
  start.  TLS=N alone is refused: nobody loses encryption by one letter.

IMAP_TLS=Y means TLS from the first byte, on port 143 STARTTLS; IMAP_TLS=N means plain text, port 143 unless given, for
the host in IMAP_HOST alone, without which it is refused, and is named at every start likewise.
"""

from __future__ import annotations

from collections.abc import Mapping

from relay.config.fields import yes_no
from relay.config.sources import Given
from relay.config.wording import shown

Values = dict[str, str]
_IMPLICIT_TLS_PORT, _STARTTLS_PORTS = "465", ("587", "25")


def upstream_values(given: Mapping[str, Given], problems: list[str]) -> Values:
    """The fields of UpstreamDefaults that `given` sets; adds to `problems` a line for each contradiction."""
    values = _plain(given, {"SMTP_AUTH_HOST": "host", "SMTP_AUTH_PORT": "port", "SMTP_AUTH_SSL_TRUST": "trust"})
    ssl, tls = _answer("SMTP_AUTH_SSL", given, problems), _answer("SMTP_AUTH_TLS", given, problems)
    port = values.get("port")
    if ssl:
        values["tls"] = "implicit"
        values.setdefault("port", _IMPLICIT_TLS_PORT)
        if port in _STARTTLS_PORTS:
            problems.append(
                f"SMTP_AUTH_SSL: Y means TLS from the first byte, but SMTP_AUTH_PORT {port} speaks STARTTLS; "
                "give SMTP_AUTH_PORT=465, or leave SMTP_AUTH_SSL blank"
            )
    elif tls is False:
        values["tls"] = "none"
        if ssl is None and not _bad("SMTP_AUTH_SSL", given):
            problems.append(
                "SMTP_AUTH_TLS: N alone would send passwords in clear text; leave it at Y, or give SMTP_AUTH_SSL=Y for "
                "TLS from the first byte, or SMTP_AUTH_SSL=N as well if clear text is meant"
            )
        if "trust" in values:
            problems.append("SMTP_AUTH_SSL_TRUST: without TLS there is no certificate to check; leave it blank")
    elif port == _IMPLICIT_TLS_PORT and not _bad("SMTP_AUTH_SSL", given):
        problems.append("SMTP_AUTH_PORT: 465 speaks TLS from the first byte; give SMTP_AUTH_SSL=Y with it, or port 587")
    return values


def imap_values(given: Mapping[str, Given], problems: list[str]) -> Values:
    """The fields of ImapDefaults that `given` sets; adds to `problems` a line for each contradiction."""
    values = _plain(given, {"IMAP_HOST": "host", "IMAP_PORT": "port"})
    if _answer("IMAP_TLS", given, problems) is False:
        values["tls"] = "none"
        if "host" not in values:
            problems.append(
                "IMAP_TLS: N alone would send passwords in clear text; leave it at Y, or give IMAP_HOST as well, the "
                "one host for which clear text is meant"
            )
        if values.setdefault("port", "143") == "993":
            problems.append(
                "IMAP_TLS: N, but IMAP_PORT 993 speaks TLS from the first byte; give IMAP_TLS=Y, or port 143"
            )
    elif values.get("port") == "143":
        values["tls"] = "starttls"
    return values


def _plain(given: Mapping[str, Given], names: Mapping[str, str]) -> Values:
    return {field: given[name].value for name, field in names.items() if name in given}


def _answer(name: str, given: Mapping[str, Given], problems: list[str]) -> bool | None:
    """None when not set; a value that is neither yes nor no is a problem, and counts as not set."""
    if name not in given:
        return None
    try:
        return bool(yes_no(given[name].value))
    except ValueError:
        problems.append(f"{name}: {shown(given[name].value)} is not yes or no; give Y or N")
        return None


def _bad(name: str, given: Mapping[str, Given]) -> bool:
    """Set to something that is neither yes nor no: one line about that is enough."""
    return name in given and _answer(name, given, []) is None
