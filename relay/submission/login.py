"""What a transport logs in with: where it gets it, how a refused token is replaced, what it is when there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from relay.accounts.model import Upstream
from relay.credentials.errors import CredentialError, SecretMissing
from relay.credentials.oauth.errors import OAuthSettingsRefused, TokenRefused, TokenUnavailable
from relay.credentials.tries import SPENT, Try
from relay.diagnosis.conditions import CONDITIONS, token_condition
from relay.mail.outcome import Stage, Unreachable

SecretSource = Callable[[Upstream], Awaitable[str]]
# For a token that the server refused: another to log in with once, inside the context; None: do not try again.
SecondLogin = Callable[[Upstream, str], AbstractAsyncContextManager[str | None]]
LoginTries = Callable[[int], AbstractAsyncContextManager[Try]]  # by account id, see credentials.tries
OnStep = Callable[[str, str], None]


@asynccontextmanager
async def unlimited(account_id: int) -> AsyncIterator[Try]:
    """A LoginTries that allows any number."""
    yield Try()


def without_secret(error: CredentialError) -> Unreachable:
    """There is nothing to log in with."""
    match error:
        case TokenUnavailable(reason=reason, retry_after_s=wait_s):
            name = "logins-spent" if reason == SPENT else "token-unavailable"
            if reason in CONDITIONS:  # the way to the provider, not its service
                return Unreachable(Stage.CONNECT, reason, str(error), retry_after_s=wait_s)
            return Unreachable(Stage.AUTH, name, str(error), retry_after_s=wait_s)
        case TokenRefused(error=words, number=number):
            return Unreachable(Stage.AUTH, token_condition(words, number).id, str(error))
        case OAuthSettingsRefused():
            return Unreachable(Stage.AUTH, "sign-in-settings", str(error))
        case SecretMissing(kind=kind):
            return Unreachable(
                Stage.AUTH, "credential-missing" if kind == "password" else "sign-in-missing", str(error)
            )
        case _:
            return Unreachable(Stage.AUTH, "credential-unreadable", str(error))
