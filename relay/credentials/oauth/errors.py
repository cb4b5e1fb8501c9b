"""Why there is no token: the provider said no, could not be asked, or the account's settings cannot work.

Nothing secret is in any of them.
"""

from __future__ import annotations

from relay.credentials.errors import CredentialError
from relay.diagnosis.token_errors import TokenScope


class TokenRefused(CredentialError):
    """The provider's final "no"; somebody has to act. `explain_token_error(error, number)` says who, and what to do.

    `error`, `suberror`: the provider's words (RFC 6749 5.2), empty if none; decide by them.  `number`: of AADSTS, for
    the explanation alone.  `description`: the provider's text, one line, bounded.  `scope`: account, or app: every
    account with the same registration is concerned.
    """

    def __init__(
        self,
        error: str,
        *,
        suberror: str = "",
        number: int | None = None,
        description: str = "",
        scope: TokenScope = "account",
    ) -> None:
        words = " ".join(part for part in (error, f"({suberror})" if suberror else "") if part)
        super().__init__(f"{words}: {description}" if description else words)
        self.error, self.suberror, self.number = error, suberror, number
        self.description, self.scope = description, scope


class TokenUnavailable(CredentialError):
    """No usable answer this time; the account is not at fault. `retry_after_s`: what the provider asked for.

    `reason`: timeout, unreachable, tls-failed, busy (429), server-error (5xx), redirected, too-large, bad-answer,
    store-failed, waiting (a try would come too early), grant-changed, closed; or the condition (`diagnosis`) in which
    the way out does not lead to the provider: proxy-auth, proxy-refused, proxy-unreachable, …
    """

    def __init__(self, reason: str, retry_after_s: int | None = None) -> None:
        super().__init__(f"no token now: {reason}")
        self.reason, self.retry_after_s = reason, retry_after_s


class OAuthSettingsRefused(CredentialError):
    """A field of the account's OAuth settings cannot work."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field, self.reason = field, reason
