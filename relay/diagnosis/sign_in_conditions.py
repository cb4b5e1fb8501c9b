"""What keeps an account from signing in, or will: its credential, its grant, the way it was set to."""

from __future__ import annotations

from relay.diagnosis.model import Class, Entry


def _entry(
    name: str, cls: Class, cause: str, *remedy: str, retry: bool = True, pause: bool = False, stage: str = "any"
) -> Entry:
    return Entry(name, "relay", "", "", stage, cls, retry, pause, cause, remedy)


SIGN_IN_CONDITIONS = (
    _entry(
        "credential-missing",
        "permanent-auth",
        "No password is stored for this account.",
        "Store it: `relay account set-password <account>`; the waiting mail then goes by itself.",
        retry=False,
        pause=True,
        stage="auth",
    ),
    _entry(
        "awaits-owner",
        "permanent-auth",
        "Its owner was invited and has not given a password or signed in yet; mail for it waits.",
        "Send its owner an invitation: `relay console invite <account> --account <account>`.",
        "Or store the password yourself: `relay account set-password <account>`; the waiting mail then goes by itself.",
        retry=False,
        pause=True,
        stage="auth",
    ),
    _entry(
        "credential-unreadable",
        "permanent-auth",
        "What is stored to sign in with can't be opened: its key is missing from the key ring, or the row was damaged.",
        "Put the missing key file back into the keys folder (`relay check` names it) and restart.",
        "If the key is lost for good, store the password again: `relay account set-password <account>`; of an "
        "account with OAuth its secrets (`relay account set <account>`), or sign in: `relay account connect "
        "<account>`.",
        retry=False,
        pause=True,
        stage="auth",
    ),
    _entry(
        "sign-in-missing",
        "permanent-auth",
        "Nobody has signed in for this account yet, or its secret, certificate or key file was never stored.",
        "Sign in: `relay account connect <account>`; the waiting mail then goes by itself.",
        "For an app or a service account store what it proves itself with: `relay account set <account>` with "
        "--client-secret-file, --certificate-file or --service-account-file.",
        retry=False,
        pause=True,
        stage="auth",
    ),
    _entry(
        "sign-in-settings",
        "protocol",
        "The account's OAuth settings cannot work.",
        "`relay account test <account>` says which one; correct it with `relay account set <account>`.",
        retry=False,
        pause=True,
        stage="auth",
    ),
    _entry(
        "token-unavailable",
        "transient",
        "The provider's sign-in service gave no usable answer; the account is not at fault.",
        "Automatic: the account rests, at least as long as the provider asked for, and is tried again.",
        "If it lasts, check that this machine reaches the provider by HTTPS: `relay account test <account>`.",
        stage="auth",
    ),
    _entry(
        "logins-spent",
        "permanent-auth",
        "The upstream refused three sign-ins of this account within an hour; more would get the mailbox locked.",
        "Automatic: tried again when the hour is over.",
        "Once the cause is gone: `relay account test <account>` tries at once.",
        stage="auth",
    ),
    _entry(
        "secret-expiring",
        "tenant-config",
        "The client secret of the app registration ends soon; without another the mail stops that day.",
        "Make a new secret (better a certificate) in the app registration.",
        "Store it: `relay account set <account> --client-secret-file F --secret-expires DATE`.",
        stage="auth",
    ),
    _entry(
        "certificate-expiring",
        "tenant-config",
        "The certificate that the app proves itself with ends soon; without another the mail stops that day.",
        "Make a new certificate and add it to the app registration beside the old one.",
        "Store it: `relay account set <account> --certificate-file PEM`.",
        stage="auth",
    ),
    _entry(
        "grant-expiring",
        "permanent-auth",
        "The sign-in of this account ends soon unless it is renewed.",
        "Sign in: `relay account connect <account>`; it takes a minute, and no mail waits meanwhile.",
        "If it ends every 7 days at Google: publish the app, it is in status Testing.",
        stage="auth",
    ),
    _entry(
        "moved-to-graph",
        "tenant-config",
        "The provider refuses SMTP AUTH for this account, so its mail goes by Microsoft Graph now, as --fallback graph "
        "allows.",
        "Nothing has to be done: mail goes out, and what waited went with it.",
        "Know what is different: bounces go to the mailbox itself, a copy is in its Sent Items, and mail of more than "
        "3 MB is refused.",
        "Back, once SMTP AUTH is allowed: `relay account set <account> --transport smtp`.",
    ),
)
