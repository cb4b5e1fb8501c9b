"""What a token endpoint's refusal means: cause, remedy, who must act. Decided by `error`, told by the AADSTS number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

TokenScope = Literal["account", "app"]
Actor = Literal["owner", "administrator", "operator", "nobody"]

_SIGN_IN = "Sign in again: `relay account connect <address>`."
_RESUME = "Then let its mail flow again: `relay account resume <address>`."


@dataclass(frozen=True, slots=True)
class TokenExplanation:
    """`who` must act: the owner of the mailbox, its organisation's administrator, whoever runs the relay, nobody.

    `retry`: it may work later without anybody.  `scope` app: every account with the same registration is concerned.
    `remedy`: steps in order, for numbering.
    """

    id: str
    cause: str
    remedy: tuple[str, ...]
    who: Actor
    retry: bool = False
    scope: TokenScope = "account"


def _sign_in(cause: str, *before: str, then: tuple[str, ...] = ()) -> TokenExplanation:
    return TokenExplanation("", cause, (*before, _SIGN_IN, *then), "owner")


def _app(cause: str, *remedy: str, who: Actor = "administrator") -> TokenExplanation:
    return TokenExplanation("", cause, (*remedy, _RESUME), who, scope="app")


def _fix(cause: str, *remedy: str, who: Actor = "administrator") -> TokenExplanation:
    return TokenExplanation("", cause, (*remedy, _RESUME), who)


def _passing(cause: str) -> TokenExplanation:
    return TokenExplanation("", cause, ("Automatic: tried again with growing waits.",), "nobody", retry=True)


_MFA = _sign_in("A second factor or a fresh sign-in is wanted.")
_REGISTER = _sign_in("The user has to register a second factor first.", "Register it at https://aka.ms/mfasetup.")
_VOID = _sign_in("The sign-in is void since a password change or a revocation.")
_COMPLIANCE = _fix(
    "Conditional Access wants a compliant or joined device, or an approved app.",
    "Exclude the app in the policy, or use the app-only sign-in.",
)
_BLOCKED = _fix(
    "A Conditional Access or security policy blocks this sign-in.",
    "Look up the failed sign-in in the sign-in logs: it names the policy.",
    "Make an exception for the app, or sign in another way: the device code is often the blocked one.",
)
_SCOPE = _fix(
    "The scope is not valid, empty, or of two resources at once.",
    "Correct the account's cloud, or remove the scope it overrides.",
    who="operator",
)
_PERMISSION = _app(
    "The app registration lacks the permission, or the organisation the service.",
    "Add the API permission to the app registration and grant admin consent.",
)
_ASSERTION = _app(
    "The certificate the app signs with is not accepted.",
    "Upload this certificate to the app registration; compare the thumbprints.",
    "Check the clock of this machine.",
)
_COMMON = _fix(
    "The tenants `common` and `consumers` are not allowed for this kind of sign-in or app.",
    "Put the tenant's id, or `organizations`, into the account.",
    who="operator",
)
_CONSENT = _fix(
    "An administrator has to agree to the app.", "Send the administrator the admin consent link of the app."
)
_CLOUD = _fix("The account belongs to another national cloud.", "Choose the right cloud for it.", who="operator")
_TRANSIENT = _passing("The provider has a passing fault or throttles the organisation.")

_AADSTS: dict[tuple[int, ...], TokenExplanation] = {
    (50034,): _fix("The user is not in this tenant.", "Correct the user or the tenant.", who="operator"),
    (50053,): TokenExplanation(
        "",
        "The user is locked after too many attempts, or this machine's address has a bad reputation.",
        ("Wait; it ends by itself.", "Or unblock the user in the sign-in logs."),
        "administrator",
        retry=True,
    ),
    (50055, 50144): _sign_in("The password has expired.", "Set a new password."),
    (50057,): _fix("The user is disabled.", "Enable the user."),
    (50058, 50074, 50076, 50078): _MFA,
    (50072, 50079): _REGISTER,
    (50105,): _fix("The user is not assigned to the app.", "Assign the user under Enterprise applications."),
    (50126,): _sign_in("User name or password are wrong."),
    (50132, 50133, 50173): _VOID,
    (50194,): _fix(
        "The app is for one tenant, but was used with `common`.",
        "Put the tenant's id into the account.",
        who="operator",
    ),
    (50196,): TokenExplanation(
        "",
        "Too many identical token requests in a short time.",
        ("Automatic: tried again later.", "If it comes again, see whether two relays use the same account."),
        "operator",
        retry=True,
    ),
    (500011, 50001): _fix(
        "The mail service is unknown in this tenant.",
        "Check cloud and scope of the account.",
        "Check that the organisation has Exchange Online.",
    ),
    (50011,): _app("The redirect URI is not registered.", "Add it to the app registration, letter by letter."),
    (53000, 53001, 53002): _COMPLIANCE,
    (53003, 530032): _BLOCKED,
    (530035,): _fix("Security defaults block this sign-in.", "Sign in in the browser, or replace security defaults."),
    (54005,): _sign_in("The authorization code was used before."),
    (65001,): _sign_in(
        "Nobody has agreed yet that the app may do this.", then=("Or an administrator grants consent for all.",)
    ),
    (65004,): _sign_in("The user declined."),
    (650052, 650056, 650057): _PERMISSION,
    (70000,): _sign_in("The grant is not valid any more."),
    (70002,): _app("The client secret is wrong.", "Enter the secret's value, or make a new one."),
    (70008, 700082): _sign_in("The grant ended because it was not used for 90 days."),
    (70011, 28002, 28003, 700022, 700023): _SCOPE,
    (70016,): _passing("The sign-in with the device code is not finished yet."),
    (70018, 70019): _sign_in("The device code is wrong or has ended."),
    (70043,): _sign_in(
        "The sign-in frequency policy ended the grant.", then=("Or an administrator excludes the app from the policy.",)
    ),
    (700016,): _app("The app is not known in this tenant.", "Check client id and tenant.", "Grant admin consent."),
    (700024,): _app("The signed request came outside its time.", "Check the clock of this machine.", who="operator"),
    (700025,): _app("The app is public, but a secret was sent.", "Remove the secret from the account.", who="operator"),
    (700027, 700030, 50012): _ASSERTION,
    (7000112,): _app("The app is disabled.", "Enable it under Enterprise applications."),
    (7000215,): _app(
        "The client secret is wrong; often the secret's ID was copied instead of its value.",
        "Enter the value, or make a new secret.",
    ),
    (7000218,): _app(
        "A secret or certificate is wanted and was not sent.",
        "Allow public client flows in the app registration, or give the account the secret.",
    ),
    (7000222,): _app("The client secret has ended.", "Make a new secret, better a certificate, and enter it."),
    (7000229,): _app("The app has no service principal in the tenant.", "Grant admin consent."),
    (90002,): _fix("The tenant was not found.", "Correct the tenant; check the cloud.", who="operator"),
    (90033, 90006, 90024, 90055, 50033, 50087): _TRANSIENT,
    (90038, 900382): _CLOUD,
    (90094, 90095): _CONSENT,
    (9001023, 90124, 90130): _COMMON,
}
_BY_NUMBER = {number: explanation for numbers, explanation in _AADSTS.items() for number in numbers}

_CONFIGURATION = _fix("The provider does not accept how it was asked.", "Correct the account's OAuth settings.")

_BY_ERROR: dict[str, TokenExplanation] = {
    "invalid_grant": _sign_in(
        "The sign-in has ended: expired, revoked, or void since a password change.",
        then=(
            "If it ends every 7 days at Google: publish the app, it is in status Testing.",
            "For a service account: check the mailbox it acts for, and the clock of this machine.",
        ),
    ),
    "interaction_required": _sign_in("The provider wants the user to sign in in person."),
    "consent_required": _sign_in("Nobody has agreed yet that the app may do this."),
    "login_required": _sign_in("The provider wants the user to sign in again."),
    "invalid_client": _app(
        "The provider does not accept the app: its id, secret or certificate is wrong, has ended or was deleted.",
        "Check the client id; enter a new secret or certificate.",
    ),
    "unauthorized_client": _app(
        "The app may not do this.",
        "Microsoft: check that the app is known in this tenant and admin consent was given.",
        "Google service account: Admin console > Security > API controls > Domain-wide delegation must hold its client "
        "id with exactly the scope https://mail.google.com/. A change takes up to a day; gmail.com is never allowed.",
    ),
    "invalid_scope": _SCOPE,
    "invalid_resource": _SCOPE,
    "invalid_target": _SCOPE,
    "invalid_request": _CONFIGURATION,
    "unsupported_grant_type": _CONFIGURATION,
    "unsupported_response_type": _CONFIGURATION,
    "redirect_uri_mismatch": _app("The redirect URI is not registered.", "Add it to the app, letter by letter."),
    "admin_policy_enforced": _fix(
        "The organisation's administrator blocks the app.", "Admin console > Security > API controls: trust the app."
    ),
    "org_internal": _fix("The app is internal to another organisation.", "Make an app of this organisation."),
    "access_denied": _sign_in("The user, or a policy of the organisation, declined."),
    "authorization_declined": _sign_in("The user declined."),
    "expired_token": _sign_in("The code ended before the sign-in was finished."),
    "bad_verification_code": _sign_in("The device code is wrong."),
    "authorization_pending": _passing("The sign-in with the device code is not finished yet."),
    "slow_down": _passing("The sign-in with the device code is not finished yet."),
    "temporarily_unavailable": _TRANSIENT,
    "server_error": _TRANSIENT,
    "rejected_by_server": _fix(
        "The provider gave a new token, and the mail server refused that too.",
        "Check that the mailbox is the one that signed in, and that SMTP AUTH is allowed for it.",
        "Check the app's right to send for this mailbox; a change takes up to an hour.",
    ),
    "state_mismatch": _sign_in("The answer from the browser does not belong to this sign-in."),
}
_UNKNOWN = TokenExplanation(
    "token-refused", "The provider gave no token.", ("Read its words.", _SIGN_IN), "administrator"
)


def token_explanations() -> Iterator[TokenExplanation]:
    """Each that `explain_token_error` has, as by its name alone."""
    for number in _BY_NUMBER:
        yield explain_token_error("", number)
    for error in _BY_ERROR:
        yield explain_token_error(error)
    yield _UNKNOWN


def transient(error: str) -> bool:
    """Whether an `error` of a token endpoint passes by itself (RFC 6749 4.1.2.1)."""
    return error in ("temporarily_unavailable", "server_error")


def token_scope(error: str) -> TokenScope:
    """How far a refusal reaches: decided by `error` alone."""
    return "app" if error in ("invalid_client", "unauthorized_client") else "account"


def token_reach(explanation_id: str) -> TokenScope | Literal["tenant"]:
    """How far a refusal reaches that is known by the id of its explanation alone."""
    if explanation_id in _WHOLE_TENANT:
        return "tenant"
    return "app" if explanation_id in _WHOLE_APP else "account"


def explain_token_error(error: str, number: int | None = None) -> TokenExplanation:
    """What a refusal means; `number` (AADSTS) only makes the words more precise.

    A known `error` decides `retry` and `scope`, as Microsoft asks; an unknown or empty one leaves them to the number.
    """
    general = _BY_ERROR.get(error)
    precise = _BY_NUMBER.get(number) if number is not None else None
    if precise is not None:
        retry, scope = (general.retry, token_scope(error)) if general else (precise.retry, precise.scope)
        return TokenExplanation(f"aadsts{number}", precise.cause, precise.remedy, precise.who, retry, scope)
    if general is not None:
        name = error.replace("_", "-")
        return TokenExplanation(name, general.cause, general.remedy, general.who, general.retry, token_scope(error))
    return _UNKNOWN


_WHOLE_TENANT = frozenset({"aadsts530035"})  # security defaults: whoever else of the organisation signs in meets them
_WHOLE_APP = frozenset(told.id for told in token_explanations() if told.scope == "app")
