"""Situations in which there is no reply to look up: what they mean, in the catalogue's own form."""

from __future__ import annotations

import re

from relay.diagnosis.catalogue import entry_by_id
from relay.diagnosis.egress_conditions import EGRESS_CONDITIONS
from relay.diagnosis.imap_conditions import IMAP_CONDITIONS
from relay.diagnosis.model import Class, Entry, Scope
from relay.diagnosis.sign_in_conditions import SIGN_IN_CONDITIONS
from relay.diagnosis.token_errors import explain_token_error, token_explanations

_RESUME = "Press Test and resume the account."


def _entry(
    name: str, cls: Class, cause: str, *remedy: str, retry: bool = True, pause: bool = False, stage: str = "any"
) -> Entry:
    return Entry(name, "relay", "", "", stage, cls, retry, pause, cause, remedy)


CONDITIONS: dict[str, Entry] = {
    entry.id: entry
    for entry in (
        _entry(
            "dns-failure",
            "tls-network",
            "The name of the upstream host could not be resolved.",
            "Automatic: tried again with growing waits.",
            "Check the account's host for a spelling mistake.",
            "Check that this machine resolves names: `getent hosts <host>`; in a container look at its DNS settings.",
            stage="connect",
        ),
        _entry(
            "connection-refused",
            "tls-network",
            "The upstream host answered that nothing listens on that port, or a firewall rejected the connection.",
            "Automatic: tried again with growing waits.",
            "Check host and port of the account (587 for STARTTLS, 465 for implicit TLS).",
            "Ask the network administrator whether outbound connections to that port are allowed.",
            stage="connect",
        ),
        _entry(
            "connection-timeout",
            "tls-network",
            "The upstream host did not answer the attempt to connect.",
            "Automatic: tried again with growing waits.",
            "If it lasts longer than an hour, a firewall most likely drops outbound connections: ask the network "
            "administrator to allow this machine to reach the host on port 587 (or 465).",
            "Check host and port of the account.",
            stage="connect",
        ),
        _entry(
            "connection-lost",
            "tls-network",
            "The connection to the upstream broke before the message was handed over.",
            "Automatic: tried again with growing waits; the upstream can't have the message.",
            "If it happens often, look for a firewall or a proxy between here and the upstream that cuts connections.",
        ),
        _entry(
            "tls-handshake",
            "tls-network",
            "No encrypted connection could be agreed on with the upstream.",
            "Automatic: tried again with growing waits.",
            "Check that port and TLS mode belong together: 587 with starttls, 465 with implicit.",
            "The upstream must speak TLS 1.2 or newer; nothing is ever sent unencrypted instead.",
            stage="connect",
        ),
        _entry(
            "certificate-invalid",
            "tls-network",
            "The upstream's certificate is not signed by an authority that this machine trusts.",
            "If the upstream uses a private authority, give its CA file with --trust CA.pem (or SMTP_AUTH_SSL_TRUST).",
            "If an inspecting proxy stands between, exempt this connection or trust its authority the same way.",
            "If neither is known, treat it as an attack: no password was sent.",
            _RESUME,
            retry=False,
            pause=True,
            stage="connect",
        ),
        _entry(
            "certificate-name",
            "tls-network",
            "The upstream's certificate was issued for another host name.",
            "Use the host name of the certificate as the account's host (a name, not an IP address).",
            "If the host is reached by another name on purpose, say which one to expect: --trust name:HOST.",
            "If neither is known, treat it as an attack: no password was sent.",
            _RESUME,
            retry=False,
            pause=True,
            stage="connect",
        ),
        _entry(
            "certificate-expired",
            "tls-network",
            "The upstream's certificate has expired, or is not valid yet.",
            "Check the clock of this machine.",
            "Ask the operator of the upstream to renew the certificate.",
            _RESUME,
            retry=False,
            pause=True,
            stage="connect",
        ),
        _entry(
            "starttls-missing",
            "tls-network",
            "The upstream does not offer STARTTLS, so that neither password nor mail can be sent encrypted.",
            "Check host and port: submission is port 587; on port 465 use --tls implicit.",
            "If the upstream does offer it to others, something between here and there removes the offer (some "
            "firewalls' SMTP inspection does): switch that off.",
            _RESUME,
            retry=False,
            pause=True,
            stage="connect",
        ),
        _entry(
            "cleartext-login",
            "tls-network",
            "The account has --tls none, so that its password or token would travel unencrypted; it was not sent.",
            "Give the account an encrypted way: relay account set ADDRESS --tls starttls (port 587) or implicit (465).",
            "Only where the upstream can do neither: SMTP_AUTH_TLS=N together with SMTP_AUTH_SSL=N opts out for the "
            "host in SMTP_AUTH_HOST; every start warns of it.",
            _RESUME,
            retry=False,
            pause=True,
            stage="connect",
        ),
        _entry(
            "starttls-refused",
            "tls-network",
            "The upstream offers STARTTLS but refused to begin it.",
            "Automatic: tried again with growing waits; nothing is ever sent unencrypted instead.",
            "Read the words of the reply.",
            "If the upstream has implicit TLS on port 465, use that: --port 465 --tls implicit.",
            stage="connect",
        ),
        _entry(
            "greeting-refused",
            "tls-network",
            "The upstream refused the connection in its greeting or refused our EHLO, before any mail was offered.",
            "Automatic: the account rests and is tried again; nothing is returned for this.",
            "Check the host of the account: it must be a submission server.",
            "Read the words of the reply: a block of this network's public IP address, or of the EHLO name, is usual.",
            pause=True,
            stage="connect",
        ),
        _entry(
            "auth-refused",
            "permanent-auth",
            "The upstream refused the sign-in, in words that this product has no special text for.",
            "Read the words of the reply.",
            "Check login name and password: `relay account set-password <account>`.",
            "Check that the account's host is the right one and that the mailbox may use authenticated SMTP.",
            _RESUME,
            retry=False,
            pause=True,
            stage="auth",
        ),
        _entry(
            "no-auth-mechanism",
            "tenant-config",
            "The upstream offers no way to sign in that fits this account's kind of credential.",
            "Check host and port: port 25 often offers no sign-in; use 587 or 465.",
            "If the provider takes OAuth only, change the account's kind of sign-in.",
            "If the upstream wants no sign-in from this network, add the account with --auth none.",
            _RESUME,
            retry=False,
            pause=True,
            stage="auth",
        ),
        _entry(
            "quota-local",
            "quota",
            "The account has sent as many recipients in a day as it may, as this relay is set.",
            "Automatic: its mail goes on as the day passes.",
            "If the provider allows more: `relay account set <account> --per-day N`.",
        ),
        _entry(
            "protocol-error",
            "protocol",
            "The upstream broke the rules of the dialogue: an incomplete or malformed reply, or one nobody asked for.",
            "Automatic: the connection was dropped and the message is tried again; the upstream can't have it.",
            "Check that host and port are those of an SMTP submission server.",
            "If it lasts, look for a proxy or mail gateway in between, and report it to the operator of the upstream.",
        ),
        _entry(
            "stage-timeout",
            "tls-network",
            "The upstream stopped answering in the middle of the dialogue.",
            "Automatic: tried again with growing waits; the upstream can't have the message.",
            "If it lasts, check the way to the upstream: a firewall that inspects SMTP, or too small an MTU, often "
            "lets short lines through and stalls long ones.",
        ),
        _entry(
            "upstream-closed",
            "transient",
            "The upstream closed an idle connection, as it may at any time.",
            "Automatic: a new connection is made at once; not counted as an attempt.",
        ),
        _entry(
            "lease-lost",
            "transient",
            "This node no longer owns the delivery; it stopped before the final dot.",
            "Automatic: the node that owns it now sends it.",
        ),
        _entry(
            "reply-lost",
            "tls-network",
            "The whole message was sent, but the upstream's answer never came: it may have the message (RFC 1047).",
            "Automatic: sent again unchanged, with the same Message-ID, so that the receiver can drop a second copy.",
            "If this account must never send twice, let it hold such messages instead, and look into the mailbox "
            "before you release one.",
            stage="data",
        ),
        _entry(
            "local-size-limit",
            "content-size",
            "The message is larger than the upstream says it takes (SIZE); it was not offered.",
            "Send smaller attachments, or a link.",
            "Ask the provider whether the limit of this mailbox can be raised.",
            retry=False,
            stage="mail",
        ),
        _entry(
            "no-8bitmime",
            "content-size",
            "The message holds 8-bit text, and the upstream takes 7-bit only (no 8BITMIME).",
            "Let the application encode its text as quoted-printable or base64.",
            "Use an upstream that offers 8BITMIME; every large provider does.",
            retry=False,
            stage="mail",
        ),
        _entry(
            "no-smtputf8",
            "content-size",
            "An address or header needs SMTPUTF8 (letters beyond ASCII), and the upstream does not offer it.",
            "Use an address in plain ASCII; for the domain its xn-- form.",
            "Use an upstream that offers SMTPUTF8.",
            retry=False,
            stage="mail",
        ),
        _entry(
            "content-missing",
            "transient",
            "The stored content of this message can't be read just now, so nothing could be sent.",
            "Check that the data folder is mounted and readable, and the disk healthy.",
            "Restore the spool from a backup if files are missing; the message is tried again until its time is over.",
        ),
        _entry(
            "unknown-failure",
            "transient",
            "The attempt failed in a way that this product has no text for.",
            "Automatic: tried again with growing waits.",
            "Report it as a fault of this product, with the log line.",
        ),
        _entry(
            "not-recognised",
            "protocol",
            "There is no SMTP reply in this text, and no failure that this product knows.",
            "Give the whole reply with its three-digit code, for example: "
            'relay explain "535 5.7.8 Username and Password not accepted"',
            "`relay trace <id>` shows the replies that a message got.",
            retry=False,
        ),
    )
}

_CLASSES: dict[str, Class] = {
    "owner": "permanent-auth",
    "administrator": "tenant-config",
    "operator": "protocol",
    "nobody": "transient",
}
# A refusal with a person to act is final, whatever else: the account stops, and is probed now and then.
_TOKENS: dict[str, Entry] = {
    told.id: _entry(
        told.id,
        _CLASSES[told.who],
        told.cause,
        *told.remedy,
        retry=told.who == "nobody",
        pause=True,
        stage="auth",
    )
    for told in token_explanations()
}
CONDITIONS |= _TOKENS
CONDITIONS |= {entry.id: entry for entry in (*EGRESS_CONDITIONS, *IMAP_CONDITIONS, *SIGN_IN_CONDITIONS)}

_SCOPES: dict[str, Scope] = {
    **dict.fromkeys(_TOKENS, "account"),
    "quota-local": "account",
    **dict.fromkeys((entry.id for entry in (*IMAP_CONDITIONS, *SIGN_IN_CONDITIONS)), "account"),
    "auth-refused": "account",
    "no-auth-mechanism": "account",
    "lease-lost": "message",
    "reply-lost": "message",
    "local-size-limit": "message",
    "no-8bitmime": "message",
    "no-smtputf8": "message",
    "content-missing": "message",
    "unknown-failure": "message",
    "not-recognised": "message",
}

_AADSTS = re.compile(r"AADSTS(\d{4,8})", re.IGNORECASE)
_OAUTH_ERROR = re.compile(r"[a-z]+(?:_[a-z]+)+")  # RFC 6749 5.2: as the token endpoints spell them

# The words in which programs and libraries report these; more particular ones first.
_SYMPTOMS = (
    ("proxy-auth", r"\b407\b.{0,40}proxy|proxy authentication|no acceptable authentication methods"),
    ("certificate-expired", r"certificate (has expired|is not yet valid)|CERT_HAS_EXPIRED"),
    (
        "certificate-name",
        r"hostname,? .{0,200}(mismatch|doesn'?t match)|hostname mismatch|certificate is not valid for",
    ),
    ("certificate-invalid", r"certificate[ _]verify[ _]failed|self[- ]signed certificate|unable to get local issuer"),
    ("starttls-missing", r"STARTTLS (extension )?(is )?not (supported|offered)"),
    (
        "no-auth-mechanism",
        r"(SMTP AUTH extension not supported|no suitable authentication method|mechanism.{0,40}found)",
    ),
    ("tls-handshake", r"wrong version number|handshake failure|unsupported protocol|\bSSL: |ssl_error"),
    ("dns-failure", r"name or service not known|name resolution|nodename nor servname|getaddrinfo|ENOTFOUND|NXDOMAIN"),
    ("connection-refused", r"connection refused|ECONNREFUSED|no route to host|network is unreachable"),
    (
        "connection-lost",
        r"connection (reset|lost|unexpectedly closed)|broken pipe|ECONNRESET|unexpected(ly)? (EOF|closed)",
    ),
    ("connection-timeout", r"timed? ?-?out|ETIMEDOUT"),
)


def condition(reason: str) -> Entry:
    """The entry for a reason given by a transport; an unheard-of one gets `unknown-failure`."""
    return CONDITIONS.get(reason) or CONDITIONS["unknown-failure"]


def entry_of(cause: str) -> Entry:
    """The entry that a diagnosis names: of the catalogue, or a condition; an unheard-of id gets `unknown-failure`."""
    return entry_by_id(cause) or condition(cause)


def condition_scope(entry: Entry) -> Scope:
    """What is at fault in a condition."""
    return _SCOPES.get(entry.id, "upstream")


def recognised(text: str) -> Entry | None:
    """The condition that an error message of some program speaks of, or None. `text` must be bounded."""
    token = _token_refusal(text)
    if token is not None:
        return token
    for name, words in _SYMPTOMS:
        if re.search(words, text, re.IGNORECASE):
            return CONDITIONS[name]
    return None


def token_condition(error: str, number: int | None) -> Entry:
    """The entry for a token endpoint's refusal: its `error` and the AADSTS number, if there is one."""
    return CONDITIONS[explain_token_error(error, number).id]


def _token_refusal(text: str) -> Entry | None:
    number = _AADSTS.search(text)
    if number is not None:
        return CONDITIONS.get(f"aadsts{number[1]}") or CONDITIONS["token-refused"]
    words = (word for word in _OAUTH_ERROR.findall(text.lower()))
    return next((found for word in words if (found := _TOKENS.get(word.replace("_", "-"))) is not None), None)
