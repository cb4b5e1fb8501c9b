"""An authorization server over loopback HTTPS: Authlib's server half does the checking, faults can be ordered.

    with running_authority(folder) as authority:
        authority.url("token"), authority.ca
        authority.order(Fault(status=429, headers={"Retry-After": "7"}))      # for the next token request
        authority.check(token, "https://outlook.office.com/SMTP.Send")        # what a mail server would do: claims

Clients: `public` (PKCE, device), `secret` (s3cret-of-the-app), `certificate` (PS256 assertion), a service account.
Refresh tokens turn at each use, as at Microsoft: the old one works until its successor was used, and whoever comes
with it after that loses the whole grant (RFC 9700 4.14.2).  `turning` False: they stay, as at Google.
As Microsoft it answers under /{tenant}/oauth2/v2.0/ too, and as an OpenID provider with discovery, keys and ID tokens.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import flask
from authlib.common.security import generate_token
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from authlib.oauth2.rfc6749.errors import InvalidClientError, InvalidGrantError
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion, JWTBearerGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc8628 import DeviceAuthorizationEndpoint, DeviceCodeGrant
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator, JWTBearerTokenValidator
from authlib.oidc.core.grants import OpenIDCode
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import RSAKey
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.peers.certificates import Certificates, write_certificates

SCOPES = (
    "https://outlook.office.com/SMTP.Send",
    "https://outlook.office.com/IMAP.AccessAsUser.All",
    "https://outlook.office365.com/.default",
    "https://graph.microsoft.com/.default",
    "https://graph.microsoft.com/Mail.Send",
    "https://mail.google.com/",
    "https://www.googleapis.com/auth/gmail.send",
    "offline_access",
    "mail",
    "openid",
    "email",
)
RESOURCE = "mail-server"
SECRET = "s3cret-of-the-app"
USER = "ann@example.com"
REDIRECT = "http://localhost:8400/"
SERVICE_ACCOUNT = "relay@project.iam.example"


@dataclass
class Fault:
    """What the next token request gets instead of its answer; `after`: the server did its work, the answer is lost."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    declared: int | None = None  # Content-Length; more than the body: half an answer
    after: bool = False


@dataclass
class _Client(ClientMixin):
    id: str
    grant_types: tuple[str, ...]
    auth_method: str
    secret: str = ""
    key: RSAKey | None = None
    thumbprint: str = ""

    def get_client_id(self) -> str:
        return self.id

    def get_default_redirect_uri(self) -> str:
        return REDIRECT

    def get_allowed_scope(self, scope: str) -> str:
        return " ".join(word for word in (scope or "").split() if word in SCOPES)

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == REDIRECT

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == self.secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == self.auth_method

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.grant_types


@dataclass
class _User:
    address: str

    def get_user_id(self) -> str:
        return self.address


@dataclass
class _Code:
    code: str
    client_id: str
    redirect_uri: str
    scope: str
    user: _User
    code_challenge: str
    code_challenge_method: str
    nonce: str = ""
    made_at: float = field(default_factory=time.time)

    def get_nonce(self) -> str:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(self.made_at)

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return time.time() > self.made_at + 300


@dataclass
class _Refresh:
    token: str
    client_id: str
    scope: str
    user: _User
    family: str
    parent: _Refresh | None = None
    superseded: bool = False

    def check_client(self, client: _Client) -> bool:
        return client.id == self.client_id

    def get_scope(self) -> str:
        return self.scope


@dataclass
class _Device:
    device_code: str
    user_code: str
    client_id: str
    scope: str
    expires_at: float
    polled_at: float = 0.0
    interval_s: float = 1.0

    def is_expired(self) -> bool:
        return time.time() > self.expires_at

    def get_client_id(self) -> str:
        return self.client_id

    def get_scope(self) -> str:
        return self.scope

    def get_user_code(self) -> str:
        return self.user_code


class Authority:
    """Made by `running_authority`. `asked`: grant type and status of each token request, in order."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.files: Certificates = write_certificates(folder, *names)
        self.ca = self.files.ca
        self.port = 0
        self.turning = True
        self.lives_s = 3600
        self.device_lives_s = 60.0
        self.skew_s = 0  # how far its clock is ahead of ours
        self.audience = RESOURCE  # of the tokens it issues
        self.typ = "at+jwt"  # RFC 9068 2.1; mail servers that know RFC 7519 alone want JWT
        self.says: dict[str, Any] = {}  # members of a token answer as it gives them; None: left out
        self.claims: dict[str, Any] = {}  # of an ID token as it gives them; None: left out
        self.id_token: str | None = None  # given instead of its own
        self.user = USER  # who signs in
        self.answers_at_once = False  # the person says yes to every device code
        self.asked: list[tuple[str, int]] = []
        self.descriptions: dict[str, dict[str, Any]] = {}  # error: what else to say with it
        self.signing = RSAKey.generate_key(2048)
        self.revoked_families: set[str] = set()
        self.refused_tokens: set[str] = set()
        self._faults: deque[Fault] = deque()
        self._gate = threading.Event()
        self._gate.set()
        self.arrived = threading.Event()
        self._codes: dict[str, _Code] = {}
        self._refresh: dict[str, _Refresh] = {}
        self._devices: dict[str, _Device] = {}
        self._decisions: dict[str, bool] = {}
        self._jtis: set[str] = set()
        self.certificate_pem, public, thumbprint = self_signed("relay test app")
        service_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.service_account_json = json.dumps(
            {
                "type": "service_account",
                "client_email": SERVICE_ACCOUNT,
                "client_id": "1234567890",
                "private_key_id": "k1",
                "private_key": service_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            }
        )
        person = ("authorization_code", "refresh_token", DeviceCodeGrant.GRANT_TYPE)
        self.clients = {
            client.id: client
            for client in (
                _Client("public", person, "none"),
                _Client("secret", (*person, "client_credentials"), "client_secret_post", SECRET),
                _Client("basic", (*person, "client_credentials"), "client_secret_basic", SECRET),
                _Client(
                    "certificate", ("client_credentials",), "client_assertion_jwt", key=public, thumbprint=thumbprint
                ),
                _Client(
                    SERVICE_ACCOUNT,
                    (JWTBearerGrant.GRANT_TYPE,),
                    "none",
                    key=RSAKey.import_key(service_key.public_key()),
                ),
            )
        }
        self.app = _application(self)

    # For tests

    def reset(self) -> None:
        """As new, but for keys and port."""
        self.turning, self.lives_s, self.device_lives_s = True, 3600, 60.0
        self.skew_s, self.audience, self.typ = 0, RESOURCE, "at+jwt"
        self.says.clear()
        self.claims.clear()
        self.id_token, self.user = None, USER
        self.answers_at_once = False
        self.asked.clear()
        self.descriptions.clear()
        self.refused_tokens.clear()
        self._faults.clear()

    def grant(self, client_id: str, scope: str) -> str:
        """A refresh token, as if the person had signed in."""
        token = generate_token(48)
        self._refresh[token] = _Refresh(token, client_id, scope, _User(USER), generate_token(8))
        return token

    def url(self, name: str) -> str:
        """Of an endpoint: authorize, token, device."""
        return f"https://localhost:{self.port}/{name}"

    @property
    def issuer(self) -> str:
        """As an OpenID provider."""
        return f"https://localhost:{self.port}"

    def order(self, *faults: Fault) -> None:
        """Let the next token requests go wrong, one each."""
        self._faults.extend(faults)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Answer no token request in here; `arrived` is set when one waits."""
        self.arrived.clear()
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    @property
    def grants(self) -> list[_Refresh]:
        """Every refresh token there ever was."""
        return list(self._refresh.values())

    def decide(self, user_code: str, *, yes: bool = True) -> None:
        """The person answers on the other device."""
        self._decisions[user_code] = yes

    def revoke(self) -> None:
        """An administrator ends every grant there is."""
        self.revoked_families.update(grant.family for grant in self._refresh.values())

    def check(self, token: str, scope: str) -> dict[str, Any]:
        """What a mail server does with a token; its claims. Raises Authlib's errors when it would refuse it."""
        if token in self.refused_tokens:
            raise InvalidGrantError("refused by order")
        validator = _Validator(self.url(""), RESOURCE)
        validator.key = self.signing
        claims = validator.authenticate_token(token)
        validator.validate_token(claims, [scope], None)
        return dict(claims)

    # For the grants

    def save_token(self, token: dict[str, Any], request: Any) -> None:
        if "refresh_token" in token:
            old = getattr(request, "refresh_token", None)
            family = old.family if isinstance(old, _Refresh) else generate_token(8)
            scope = old.scope if isinstance(old, _Refresh) else token.get("scope", "")
            self._refresh[token["refresh_token"]] = _Refresh(
                token["refresh_token"], request.client.id, scope, request.user, family,
                old if isinstance(old, _Refresh) else None,
            )  # fmt: skip

    def save_code(self, code: _Code) -> None:
        self._codes[code.code] = code

    def code(self, code: str, client: _Client) -> _Code | None:
        found = self._codes.get(code)
        return found if found is not None and found.client_id == client.id else None

    def use_code(self, code: str) -> None:
        del self._codes[code]

    def use_refresh(self, token: str) -> _Refresh | None:
        grant = self._refresh.get(token)
        if grant is None or grant.family in self.revoked_families:
            return None
        if grant.superseded:
            self.revoked_families.add(grant.family)
            return None
        if grant.parent is not None:
            grant.parent.superseded = True
        return grant

    def save_device(self, device: _Device) -> None:
        self._devices[device.device_code] = device

    def device(self, device_code: str) -> _Device | None:
        return self._devices.get(device_code)

    def decision(self, user_code: str) -> tuple[_User, bool] | None:
        if self.answers_at_once:
            return _User(USER), True
        return (_User(USER), self._decisions[user_code]) if user_code in self._decisions else None

    def first_use(self, jti: str) -> bool:
        fresh = jti not in self._jtis
        self._jtis.add(jti)
        return fresh

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """The WSGI application: faults and the record around the real one."""
        tenant, _, name = environ["PATH_INFO"].removeprefix("/").partition("/oauth2/v2.0/")
        if name and "/" not in tenant:
            environ["PATH_INFO"] = f"/{name}"
        if environ["PATH_INFO"] != "/token":
            return self.app(environ, start_response)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:  # whoever asked is gone
            start_response("400 cut off", [])
            return []
        self.arrived.set()
        self._gate.wait(30)
        fault = self._faults.popleft() if self._faults else None
        grant_type = parse_qs(body.decode()).get("grant_type", [""])[0]
        if fault is None or fault.after:
            environ["wsgi.input"] = _Again(body)
            status, headers, answer = _run(self.app, environ)
            if fault is None:
                self.asked.append((grant_type, int(status[:3])))
                answer = self._with_details(answer)
                headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
                start_response(status, [*headers, ("Content-Length", str(len(answer)))])
                return [answer]
        self.asked.append((grant_type, fault.status))
        declared = len(fault.body) if fault.declared is None else fault.declared
        start_response(
            f"{fault.status} ordered",
            [("Content-Type", "application/json"), ("Content-Length", str(declared)), *fault.headers.items()],
        )
        return [fault.body]

    def _with_details(self, answer: bytes) -> bytes:
        if not self.descriptions:
            return answer
        found = json.loads(answer)
        found.update(self.descriptions.get(found.get("error", ""), {}))
        return json.dumps(found).encode()


class _Again:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self, size: int = -1) -> bytes:
        size = len(self._body) if size < 0 else size
        part, self._body = self._body[:size], self._body[size:]
        return part

    def readline(self, size: int = -1) -> bytes:
        return self.read(size)


def _run(app: Any, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
    started: list[Any] = []
    parts = app(environ, lambda status, headers, exc_info=None: started.extend((status, headers)))
    return started[0], started[1], b"".join(parts)


class _Generator(JWTBearerTokenGenerator):
    key: RSAKey
    authority: Authority

    def access_token_generator(self, client: Any, grant_type: str, user: Any, scope: str) -> str:
        """Authlib's, with the clock and the type that a test wants."""
        token = jwt.decode(super().access_token_generator(client, grant_type, user, scope), self.key)
        claims = dict(token.claims)
        for name in ("iat", "exp"):
            claims[name] += self.authority.skew_s
        return jwt.encode({**token.header, "typ": self.authority.typ}, claims, self.key)

    def get_jwks(self) -> RSAKey:
        return self.key

    def get_audiences(self, client: Any, user: Any, scope: Any) -> str:
        return self.authority.audience


class _Validator(JWTBearerTokenValidator):
    key: RSAKey

    def get_jwks(self) -> RSAKey:
        return self.key


def _application(authority: Authority) -> flask.Flask:
    app = flask.Flask("authority")
    server = AuthorizationServer(app, authority.clients.get, authority.save_token)

    def issue(**given: Any) -> dict[str, Any]:
        generator = _Generator(
            authority.url(""),
            refresh_token_generator=lambda **_: generate_token(48),
            expires_generator=lambda client, grant_type: authority.lives_s,
        )
        generator.key, generator.authority = authority.signing, authority
        given["include_refresh_token"] = given.get("include_refresh_token", True) and "offline_access" in (
            given.get("scope") or ""
        )
        token: dict[str, Any] = generator(**given)
        for name, value in authority.says.items():
            token.pop(name, None)
            if value is not None:
                token[name] = value
        return token

    server.register_token_generator("default", issue)
    server.register_client_auth_method("client_assertion_jwt", _assertion_check(authority))
    for grant in _grants(authority):
        server.register_grant(*grant)
    server.register_endpoint(_device_endpoint(authority))

    @app.get("/authorize")
    def authorize() -> Any:
        user = _User(authority.user)
        try:
            grant = server.get_consent_grant(end_user=user)
        except Exception as error:
            return str(error), 400
        allowed = None if flask.request.args.get("login_hint") == "no@example.com" else user
        return server.create_authorization_response(grant_user=allowed, grant=grant)

    @app.post("/token")
    def token() -> Any:
        return server.create_token_response()

    @app.get("/.well-known/openid-configuration")
    def discovery() -> Any:
        return {
            "issuer": authority.issuer,
            "authorization_endpoint": authority.url("authorize"),
            "token_endpoint": authority.url("token"),
            "jwks_uri": authority.url("keys"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic", "none"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    @app.get("/keys")
    def keys() -> Any:
        return {"keys": [authority.signing.as_dict(private=False, kid="k1", use="sig")]}

    @app.post("/device")
    def device() -> Any:
        return server.create_endpoint_response("device_authorization")

    return app


def _assertion_check(authority: Authority) -> Any:
    class Check(JWTBearerClientAssertion):
        def get_audiences(self) -> list[str]:
            return [authority.url("token")]

        def resolve_client_public_key(self, client: _Client) -> RSAKey:
            if client.key is None:
                raise InvalidClientError
            return client.key

        def validate_jti(self, claims: Any, jti: str) -> bool:
            return authority.first_use(jti)

        def process_assertion_claims(self, assertion: str, resolve_key: Any) -> Any:
            headers, claims = self.extract_assertion(assertion)
            if headers.get("x5t#S256") != authority.clients[claims["sub"]].thumbprint:
                raise InvalidClientError(description="AADSTS700027: unknown certificate")
            token = jwt.decode(assertion, resolve_key, algorithms=["PS256"])
            self.verify_claims(token.claims)
            return token.claims

    return Check()


def _grants(authority: Authority) -> list[tuple[Any, ...]]:
    methods = ["none", "client_secret_post", "client_secret_basic", "client_assertion_jwt"]

    class AuthorizationCode(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = methods

        def save_authorization_code(self, code: str, request: Any) -> None:
            data = request.payload.data
            authority.save_code(
                _Code(
                    code,
                    request.client.id,
                    request.payload.redirect_uri,
                    request.payload.scope,
                    request.user,
                    data.get("code_challenge"),
                    data.get("code_challenge_method"),
                    data.get("nonce", ""),
                )
            )

        def query_authorization_code(self, code: str, client: _Client) -> _Code | None:
            return authority.code(code, client)

        def delete_authorization_code(self, authorization_code: _Code) -> None:
            authority.use_code(authorization_code.code)

        def authenticate_user(self, authorization_code: _Code) -> _User:
            return authorization_code.user

    class IdToken(OpenIDCode):
        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return any(code.nonce == nonce for code in authority._codes.values())

        def resolve_client_private_key(self, client: _Client) -> RSAKey:
            return authority.signing

        def get_client_claims(self, client: _Client) -> dict[str, Any]:
            return {"iss": authority.issuer}

        def get_encode_header(self, client: _Client) -> dict[str, str]:
            return {"alg": "RS256", "kid": "k1"}

        def generate_user_info(self, user: _User, scope: str) -> dict[str, Any]:
            return {"sub": f"id-of-{user.address}", "email": user.address, "email_verified": True}

        def encode_id_token(self, token: Any, request: Any) -> str:
            if authority.id_token is not None:
                return authority.id_token
            made = jwt.decode(super().encode_id_token(token, request), authority.signing)
            claims = {name: value for name, value in {**made.claims, **authority.claims}.items() if value is not None}
            return jwt.encode(made.header, claims, authority.signing)

    class Refresh(grants.RefreshTokenGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = methods

        @property
        def INCLUDE_NEW_REFRESH_TOKEN(self) -> bool:
            return authority.turning

        def authenticate_refresh_token(self, refresh_token: str) -> _Refresh | None:
            return authority.use_refresh(refresh_token)

        def authenticate_user(self, refresh_token: _Refresh) -> _User:
            return refresh_token.user

        def revoke_old_credential(self, refresh_token: _Refresh) -> None:
            """Its successor's first use does it."""

    class ClientCredentials(grants.ClientCredentialsGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = methods[1:]

    class Device(DeviceCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = methods

        def query_device_credential(self, device_code: str) -> _Device | None:
            return authority.device(device_code)

        def query_user_grant(self, user_code: str) -> tuple[_User, bool] | None:
            return authority.decision(user_code)

        def should_slow_down(self, credential: _Device) -> bool:
            now = time.monotonic()
            early = credential.polled_at and now - credential.polled_at < credential.interval_s - 0.1
            credential.polled_at = now
            return bool(early)

    class Service(JWTBearerGrant):
        def resolve_issuer_client(self, issuer: str) -> _Client | None:
            return authority.clients.get(issuer)

        def resolve_client_public_key(self, client: _Client) -> RSAKey:
            assert client.key is not None
            return client.key

        def authenticate_user(self, subject: str) -> _User | None:
            return _User(subject) if subject.endswith("@example.com") else None

        def get_audiences(self) -> list[str]:
            return [authority.url("token")]

        def has_granted_permission(self, client: _Client, user: _User) -> bool:
            return True

        def process_assertion_claims(self, assertion: str) -> Any:
            claims = super().process_assertion_claims(assertion)
            if not claims.get("sub") or claims["exp"] - claims["iat"] > 3600 or not authority.first_use(claims["jti"]):
                raise InvalidGrantError("JWT must be short-lived and used once")
            self.asked_scope = claims["scope"]
            return claims

        def create_token_response(self) -> Any:
            token = self.generate_token(scope=self.asked_scope, user=self.request.user, include_refresh_token=False)
            return 200, token, self.TOKEN_RESPONSE_HEADER

    return [
        (AuthorizationCode, [CodeChallenge(required=True), IdToken()]),
        (Refresh,),
        (ClientCredentials,),
        (Device,),
        (Service,),
    ]


def _device_endpoint(authority: Authority) -> Any:
    class Endpoint(DeviceAuthorizationEndpoint):
        INTERVAL = 1

        @property
        def EXPIRES_IN(self) -> int:
            return max(1, round(authority.device_lives_s))

        def get_verification_uri(self) -> str:
            return authority.url("activate")

        def save_device_credential(self, client_id: str, scope: str, data: dict[str, Any]) -> None:
            end = time.time() + authority.device_lives_s
            authority.save_device(_Device(data["device_code"], data["user_code"], client_id, scope, end))

    return Endpoint


def self_signed(name: str) -> tuple[str, RSAKey, str]:
    """PEM of a certificate with its key, its public key, its `x5t#S256`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    thumbprint = base64.urlsafe_b64encode(certificate.fingerprint(hashes.SHA256())).rstrip(b"=").decode()
    return pem.decode(), RSAKey.import_key(key.public_key()), thumbprint


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def running_authority(folder: Path, *names: str) -> Iterator[Authority]:
    """Serve on a free port of localhost until the end; certificates, for `names` if any, are written to `folder`."""
    authority = Authority(folder, *names)
    server = make_server(
        "localhost",
        0,
        authority,
        threaded=True,
        request_handler=_Quiet,
        ssl_context=(str(authority.files.chain), str(authority.files.key)),
    )
    server.daemon_threads = True
    authority.port = server.server_port
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield authority
    finally:
        authority._gate.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
