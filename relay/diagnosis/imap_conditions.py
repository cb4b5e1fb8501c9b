"""What goes wrong with a mailbox over IMAP."""

from __future__ import annotations

from relay.diagnosis.model import Class, Entry


def _entry(name: str, cls: Class, cause: str, *remedy: str, retry: bool, stage: str = "connect") -> Entry:
    # No mail depends on them; were one ever met on the way of a mail, the account would stop, and nothing be returned.
    return Entry(name, "relay", "", "", stage, cls, retry, not retry, cause, remedy)


IMAP_CONDITIONS = (
    _entry(
        "imap-unreachable",
        "tls-network",
        "The mailbox's IMAP server did not answer, or the connection to it broke.",
        "Check its host and port (`relay account show <account>`): 993 speaks TLS from the first octet, 143 STARTTLS. "
        "Correct them with `relay account set <account> --imap-host H --imap-port P`, or for all with IMAP_HOST.",
        "Ask the network administrator whether outbound connections to that port are allowed.",
        retry=True,
    ),
    _entry(
        "imap-protocol",
        "protocol",
        "What answers at the IMAP server's address does not speak IMAP, or broke its rules.",
        "Check host and port of the IMAP server, and that --imap-tls fits the port: 993 with implicit, 143 with "
        "starttls.",
        "If it lasts, report it to the operator of the server, with the log line.",
        retry=True,
    ),
    _entry(
        "imap-starttls-missing",
        "tls-network",
        "The IMAP server does not offer STARTTLS, so that no password can be sent encrypted.",
        "Use port 993, TLS from the first octet: `relay account set <account> --imap-port 993 --imap-tls implicit`.",
        "If it does offer STARTTLS to others, something between here and there removes the offer: switch that off.",
        retry=False,
    ),
    _entry(
        "imap-cleartext-login",
        "tls-network",
        "IMAP_TLS is N, so that the account's password or token would travel unencrypted; it was not sent.",
        "Give IMAP_TLS=Y, or the account an encrypted way: `relay account set <account> --imap-port 993 --imap-tls "
        "implicit`.",
        "Only where the server can do neither: IMAP_TLS=N opts out for the one host that IMAP_HOST names; every start "
        "warns of it.",
        retry=False,
    ),
    _entry(
        "imap-no-mechanism",
        "tenant-config",
        "The IMAP server offers no way to sign in that fits this account's kind of credential.",
        "If it takes OAuth only, change the account's kind of sign-in: `relay account list --auth` shows how.",
        "If it takes passwords only, IMAP cannot be used for this account.",
        retry=False,
        stage="auth",
    ),
    _entry(
        "imap-login-refused",
        "permanent-auth",
        "The IMAP server refused the sign-in.",
        "Check that IMAP is switched on for the mailbox: at Microsoft 365 `Set-CASMailbox ADDRESS -ImapEnabled $true`, "
        "elsewhere in the webmail's settings.",
        "With OAuth: the sign-in must include the right to IMAP (IMAP.AccessAsUser.All, or IMAP.AccessAsApp for an "
        "app): sign in again with `relay account connect <account> --imap`.",
        "If the user name there is another one: `relay account set <account> --imap-login NAME`.",
        retry=False,
        stage="auth",
    ),
    _entry(
        "imap-not-allowed",
        "tenant-config",
        "The IMAP server knows the account, and does not let it into this mailbox.",
        "Check that IMAP is switched on for the mailbox, and that the login has the right to it: at Microsoft 365 "
        "`Set-CASMailbox ADDRESS -ImapEnabled $true`, for an app also `Add-MailboxPermission`.",
        "At Outlook.com this passes by itself now and then: try again later.",
        "Read the words of the answer.",
        retry=False,
        stage="auth",
    ),
    _entry(
        "imap-unavailable",
        "transient",
        "The IMAP server cannot open the mailbox just now.",
        "Try again later; many providers limit the connections of a mailbox (about 15).",
        retry=True,
        stage="auth",
    ),
    _entry(
        "imap-no-folder",
        "tenant-config",
        "The mailbox does not have the folder that is wanted.",
        "For mail that came back: name another one with `relay account set <account> --bounces inbox`.",
        "For copies of sent mail: make a folder named Sent, or switch them off with `relay account set <account> "
        "--sent-copy no`.",
        retry=False,
        stage="auth",
    ),
    _entry(
        "imap-refused",
        "transient",
        "The IMAP server let the account in, and then refused to read or file mail.",
        "Read the words of the answer: a full mailbox needs room.",
        "If it lasts, switch it off with `relay account set <account> --bounces none --sent-copy no`.",
        retry=True,
        stage="auth",
    ),
    _entry(
        "imap-no-inbox",
        "protocol",
        "The sign-in worked, but the mailbox's INBOX could not be opened.",
        "Read the words of the answer.",
        "Check that the mailbox exists, has a licence, and is not moved just now.",
        retry=False,
        stage="auth",
    ),
)
