"""Signs a person in at an OpenID provider: what it publishes, and whether the ID token it gives is to be believed.

OpenID Connect Core 1.0 (3.1, authorization code flow), Discovery 1.0 (3, 4). Heavy libraries are loaded when asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.credentials.oauth.app import OAuthApp
from relay.credentials.oauth.client import AppKeys, OAuthClient, SignIn
from relay.credentials.oauth.errors import TokenRefused, TokenUnavailable

# No symmetric ones and no "none": with those whoever knows the client's secret, or nothing at all, could sign.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_ASYMMETRIC = frozenset({"RSA", "EC", "OKP"})
_SCOPE = "openid email profile"
_KEPT_S, _AGAIN_S = 3600.0, 60.0  # how long what it publishes is kept, and the least time between two looks
_LEEWAY_S = 120
_MOST_KEYS = 64
OF_ALL = 0  # no account: the way out of all


@dataclass(frozen=True, slots=True)
class Person:
    """Who signed in. `email` in lower case, "" when there is none; `verified`: the provider says that it is theirs."""

    issuer: str
    subject: str
    email: str
    verified: bool
    auth_time_s: int = 0  # when the provider last asked for a password or alike, since 1970; 0: it does not say


@dataclass(frozen=True, slots=True)
class PersonSignIn:
    """One begun: `nonce` comes back in the ID token."""

    sign_in: SignIn
    url: str = field(repr=False)
    nonce: str = field(repr=False)


@dataclass(slots=True)
class _Published:
    document: Mapping[str, Any]
    keys: Mapping[str, Any]
    at: float


class OpenIdProvider:
    """One issuer. `secret` "": the client has none. Keeps nothing of a person.

    Its methods raise TokenUnavailable (it gave no usable answer) and TokenRefused; `wrong_issuer` and `invalid_token`
    are words of ours.  `now_s` is the wall clock, `monotonic_s` one that never goes back.
    """

    def __init__(
        self,
        oauth: OAuthClient,
        issuer: str,
        client_id: str,
        secret: str = "",
        *,
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._oauth, self.issuer, self._client_id, self._secret = oauth, issuer, client_id, secret
        self._now_s, self._monotonic_s = now_s, monotonic_s
        self._published: _Published | None = None

    async def begin(self, redirect: str, *, anew: bool = False) -> PersonSignIn:
        """Where to send the browser; `anew`: whoever is signed in there is to be asked again (Core 3.1.2.1)."""
        document = (await self._known()).document
        app = self._app(document)
        from authlib.common.security import generate_token
        from authlib.common.urls import add_params_to_uri

        sign_in, nonce = self._oauth.begin_sign_in(app, redirect), generate_token(32)
        asked = [("nonce", nonce), *([("prompt", "login"), ("max_age", "0")] if anew else [])]
        return PersonSignIn(sign_in, add_params_to_uri(sign_in.url, asked), nonce)

    async def finish(self, begun: PersonSignIn, answer: str) -> Person:
        """Who it is that came back to the address `answer`."""
        code = self._oauth.code_of(begun.sign_in, answer)
        app = self._app((await self._known()).document)
        keys = AppKeys(OF_ALL, client_secret=self._secret or None)
        grant = await self._oauth.exchange(app, keys, code, begun.sign_in.verifier, begun.sign_in.redirect)
        if not grant.id_token:
            raise TokenRefused("invalid_token", description="the provider gave no ID token")
        return self._person(await self._claims(grant.id_token, begun.nonce))

    async def _claims(self, id_token: str, nonce: str) -> Mapping[str, Any]:
        """Core 3.1.3.7, all of it: signature, algorithm, issuer, audience, authorised party, times, nonce."""
        await asyncio.to_thread(_load)
        from joserfc import jwt
        from joserfc.errors import JoseError

        try:
            token = jwt.decode(id_token, await self._key_set(_kid_of(id_token)), algorithms=ALGORITHMS)
            registry = jwt.JWTClaimsRegistry(
                now=int(self._now_s()),
                leeway=_LEEWAY_S,
                iss={"essential": True, "value": self.issuer},
                sub={"essential": True},
                aud={"essential": True, "value": self._client_id},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True, "value": nonce},
            )
            registry.validate(token.claims)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise _invalid(type(error).__name__) from None  # its text may quote the token
        party = token.claims.get("azp")
        audience = token.claims["aud"]
        if party not in (None, self._client_id) or (party is None and isinstance(audience, list) and len(audience) > 1):
            raise _invalid("authorised party")
        return token.claims

    def _person(self, claims: Mapping[str, Any]) -> Person:
        subject, email = claims["sub"], claims.get("email")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:  # Core 2
            raise _invalid("sub")
        address = email.strip().lower() if isinstance(email, str) and len(email) <= 320 else ""
        # xms_edov: Microsoft's word for the same (an optional claim); its plain `email` is whatever somebody typed.
        verified = any(claims.get(name) in (True, 1, "true", "1") for name in ("email_verified", "xms_edov"))
        return Person(self.issuer, subject, address, verified, _seconds(claims.get("auth_time")))

    def _app(self, document: Mapping[str, Any]) -> OAuthApp:
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])  # Discovery 3
        post = isinstance(methods, list) and "client_secret_post" in methods
        return OAuthApp(
            "generic",
            client_id=self._client_id,
            token_url=_https(document, "token_endpoint"),
            authorize_url=_https(document, "authorization_endpoint"),
            scope=_SCOPE,
            client_auth="post" if post else "basic",
        )

    async def _known(self, *, anew: bool = False) -> _Published:
        """What it publishes, from memory for an hour; `anew`: not older than a minute."""
        kept = self._published
        if kept is not None and self._monotonic_s() - kept.at < (_AGAIN_S if anew else _KEPT_S):
            return kept
        document = await self._oauth.document(self.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if document.get("issuer") != self.issuer:  # Discovery 4.3
            raise TokenRefused("wrong_issuer", description=str(document.get("issuer"))[:200])
        keys = await self._oauth.document(_https(document, "jwks_uri"))
        self._published = _Published(document, keys, self._monotonic_s())
        return self._published

    async def _key_set(self, kid: str) -> Any:
        from joserfc.jwk import KeySet

        for anew in (False, True):  # a key that is not known may be a new one
            published = (await self._known(anew=anew)).keys.get("keys")
            usable = [key for key in published or [] if isinstance(key, dict) and _signs(key)][:_MOST_KEYS]
            if usable and (not kid or any(key.get("kid") == kid for key in usable)):
                return KeySet.import_key_set({"keys": usable})
        raise _invalid("unknown key")


def _load() -> None:
    """Beside the event loop: it takes a while at first."""
    import joserfc.jwk
    import joserfc.jwt

    del joserfc


def _signs(key: Mapping[str, Any]) -> bool:
    return key.get("kty") in _ASYMMETRIC and key.get("use", "sig") == "sig"


def _seconds(value: object) -> int:
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11
    return int(value) if known and isinstance(value, int | float) else 0


def _kid_of(id_token: str) -> str:
    from joserfc import jws

    kid = jws.extract_compact(id_token.encode()).headers().get("kid", "")
    return kid if isinstance(kid, str) else ""


def _https(document: Mapping[str, Any], name: str) -> str:
    url = document.get(name)
    if not isinstance(url, str) or not url.startswith("https://") or len(url) > 2048:
        raise TokenUnavailable("bad-answer")
    return url


def _invalid(what: str) -> TokenRefused:
    return TokenRefused("invalid_token", description=what)
