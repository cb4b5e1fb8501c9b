"""What goes wrong on the way out, before the upstream is reached: proxy and source address."""

from __future__ import annotations

from relay.diagnosis.model import Entry

_AUTOMATIC = "Automatic: tried again with growing waits; nothing is returned for this."
_WHICH = "`relay account show <account>` names the proxy; RELAY_EGRESS__PROXY sets the one of all accounts."


def _entry(name: str, cause: str, *remedy: str) -> Entry:
    return Entry(name, "relay", "", "", "connect", "tls-network", True, False, cause, (_AUTOMATIC, *remedy))


EGRESS_CONDITIONS = (
    _entry(
        "proxy-auth",
        "The proxy on the way out wants a login, or refused the one it was given (HTTP 407, SOCKS 5 authentication).",
        _WHICH,
        "Put the login into its address (http://LOGIN@HOST:PORT) and store the password: RELAY_EGRESS__PROXY_PASSWORD, "
        "or for one account `relay account set <account> --proxy URL --proxy-password-file F`.",
        "Only Basic and SOCKS user names are spoken: for Negotiate or NTLM ask the network administrator to let this "
        "machine through by its address.",
    ),
    _entry(
        "proxy-refused",
        "The proxy on the way out does not allow the connection (HTTP 403 or 405, SOCKS 5 ruleset).",
        "Ask the network administrator to let this machine CONNECT to the upstream's host and port: many proxies allow "
        "port 443 alone, and submission is 587 or 465.",
        "If the host is an internal one, name it in RELAY_EGRESS__NO_PROXY.",
        _WHICH,
    ),
    _entry(
        "proxy-unreachable",
        "The proxy on the way out could not be connected to.",
        _WHICH,
        "Check its host and port, and that it runs.",
        "If it is not needed for this account: `relay account set <account> --proxy direct`.",
    ),
    _entry(
        "proxy-upstream",
        "The proxy on the way out could not reach the upstream (HTTP 502, 503 or 504, SOCKS 5 host unreachable).",
        "Check host and port of the account: the proxy resolves the name.",
        "Ask the network administrator whether the proxy may reach that port.",
    ),
    _entry(
        "proxy-protocol",
        "What answers at the proxy's address does not speak the proxy's protocol, stalled, or hung up.",
        _WHICH,
        "Check its scheme: http:// for CONNECT, socks5:// for SOCKS 5; a proxy that is itself reached by TLS is not "
        "supported.",
    ),
    _entry(
        "upstream-forbidden",
        "The account's host was named through the web, and leads to this machine, to a private network, or to a port "
        "that is not one of mail.",
        "Check host and port of the account.",
        "If it is right, an operator of the machine names it: `relay account set <account> --host HOST`; or set "
        "RELAY_CONSOLE__ALLOW_PRIVATE_UPSTREAMS=yes for every host in private networks.",
    ),
    _entry(
        "source-address",
        "The source address that is set is not one of this machine.",
        "Correct RELAY_EGRESS__SOURCE_ADDRESS, or the account's: `relay account set <account> --source-address A`.",
        "`ip address` lists those of this machine; in a container they are the container's.",
    ),
)
