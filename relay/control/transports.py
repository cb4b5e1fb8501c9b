"""Which transport an account can have, and what it takes to change it."""

from __future__ import annotations

from relay.accounts.model import Account, Upstream
from relay.accounts.presets import APIS, PRESETS
from relay.control.context import Control
from relay.control.oauth_settings import WITH_A_PERSON
from relay.control.refusal import ControlError
from relay.credentials.errors import CredentialError
from relay.credentials.oauth.errors import TokenUnavailable

_OAUTH = "oauth-code, oauth-device, oauth-app or service-account"


def check_transport(account: Account, upstream: Upstream) -> None:
    """Refuse a transport, or one to fall back to, that the provider does not have or that needs another login."""
    preset = PRESETS[upstream.provider]
    for option, kind in (("--transport", account.transport), ("--fallback", account.fallback)):
        if kind == "smtp" or kind == "none":
            continue
        if preset.api != kind:
            fitting = [name for name, known in PRESETS.items() if known.api == kind]
            raise ControlError(
                f"{option} {kind}: {preset.name} has no {APIS[kind].name}", f"give --provider {' or '.join(fitting)}"
            )
        if account.auth in ("password", "none"):
            raise ControlError(
                f"{option} {kind}: {APIS[kind].name} takes OAuth only, and this account has --auth {account.auth}",
                f"give --auth {_OAUTH}",
            )


async def consent_missing(control: Control, account: Account) -> bool:
    """Does its grant not allow the transport it has now? Asks the provider; what cannot be asked is not missing."""
    if account.auth not in WITH_A_PERSON or "refresh_token" not in await control.vault.kinds(account.id):
        return False
    try:
        await control.logins.token(account.id, account.transport)
    except TokenUnavailable:
        return False
    except CredentialError:
        return True
    return False
