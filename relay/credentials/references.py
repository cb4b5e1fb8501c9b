"""Secrets named by where they are kept: a file, an environment variable, a field in HashiCorp Vault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from relay.config.regular import open_regular
from relay.credentials.errors import CredentialError
from relay.credentials.secret import Secret
from relay.telemetry.redaction import mask

Kind = Literal["file", "env", "vault"]
FORMS = '{ file = "/run/secrets/NAME" }, { env = "NAME" } or { vault = "kv/path#field" }'

_MAX_BYTES = 65_536
_VAULT_S = 10  # for each answer


class ReferenceUnreadable(CredentialError):
    """The secret is not there, or not fit to be one. `remedy` says what to do; the value is in neither text."""

    def __init__(self, reference: Reference, reason: str, remedy: str) -> None:
        super().__init__(f"{reference}: {reason}; {remedy}")
        self.reference, self.reason, self.remedy = reference, reason, remedy


@dataclass(frozen=True, slots=True)
class Reference:
    """`place`: a path, the name of a variable, or `mount/path#field` (KV version 2, or 1)."""

    kind: Kind
    place: str

    def __str__(self) -> str:
        return f"{self.kind} {self.place}"

    def within(self, folder: Path) -> Reference:
        """The same with a relative file taken as one in `folder`."""
        return Reference("file", str(folder / Path(self.place).expanduser())) if self.kind == "file" else self

    @property
    def path(self) -> Path | None:
        """The file that a change of can be seen at."""
        return Path(self.place) if self.kind == "file" else None


def parse_reference(given: object) -> Reference:
    """`{"file": …}`, `{"env": …}` or `{"vault": …}`.

    Raises ValueError with the right form, and never with what was given: that may be the secret itself.
    """
    if isinstance(given, str):
        raise ValueError(f"a secret does not belong in this file; give {FORMS}")
    if not isinstance(given, Mapping) or len(given) != 1:
        raise ValueError(f"not a reference to a secret; give one of {FORMS}")
    ((kind, place),) = given.items()
    if kind not in ("file", "env", "vault") or not isinstance(place, str) or not place.isprintable() or not place:
        raise ValueError(f"not a reference to a secret; give one of {FORMS}")
    if kind != "vault":
        return Reference(kind, place)
    mount, slash, rest = place.partition("/")
    path, hash_, name = rest.rpartition("#")
    if not (mount and slash and path.strip("/") and hash_ and name):
        raise ValueError('a place in Vault has a mount, a path and a field; give { vault = "kv/path#field" }')
    return Reference("vault", place)


class Resolver:
    """Reads what references name; each place in Vault once. Blocking: use it in a thread, and for one application.

    `environ` names variables, and Vault by VAULT_ADDR, VAULT_TOKEN, VAULT_NAMESPACE and VAULT_CACERT.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._client: Any = None
        self._known: dict[str, Mapping[str, Any]] = {}

    def read(self, reference: Reference) -> Secret:
        """The secret, one line end at its end taken off; masked in the log from now on. Raises ReferenceUnreadable."""
        match reference.kind:
            case "file":
                text = self._file(reference)
            case "env":
                text = self._variable(reference)
            case "vault":
                text = self._field(reference)
        if not text:
            raise ReferenceUnreadable(reference, "is empty", "put the secret there")
        if len(text.encode()) > _MAX_BYTES:
            raise ReferenceUnreadable(reference, "is longer than 64 KiB", "put the secret alone there")
        mask(text)
        return Secret(text)

    def _file(self, reference: Reference) -> str:
        try:
            with open_regular(Path(reference.place)) as file:
                octets = file.read(_MAX_BYTES + 2)
        except OSError as error:
            raise ReferenceUnreadable(
                reference, f"cannot be read ({error.strerror})", "make it a file that the relay's user may read"
            ) from None
        try:
            return _without_line_end(octets.decode())
        except UnicodeDecodeError:
            raise ReferenceUnreadable(reference, "is not UTF-8", "save it as UTF-8") from None

    def _variable(self, reference: Reference) -> str:
        value = self._environ.get(reference.place)
        if value is None:
            raise ReferenceUnreadable(
                reference, "is not in the environment of the relay", "set it where the relay is started, and restart it"
            )
        return _without_line_end(value)

    def _field(self, reference: Reference) -> str:
        place, _, name = reference.place.rpartition("#")
        fields = self._known.get(place)
        if fields is None:
            mount, _, path = place.partition("/")
            fields = self._known[place] = self._fields(reference, mount, path.strip("/"))
        value = fields.get(name)
        if not isinstance(value, str):
            raise ReferenceUnreadable(reference, "there is no such field with a text", "put it there, or name another")
        return value

    def _fields(self, reference: Reference, mount: str, path: str) -> Mapping[str, Any]:
        client = self._vault(reference)
        import requests
        from hvac.exceptions import Forbidden, InvalidPath, VaultError

        try:
            try:
                answer = client.secrets.kv.v2.read_secret_version(
                    path=path, mount_point=mount, raise_on_deleted_version=True
                )
                found = answer["data"]["data"]
            except InvalidPath:
                found = client.secrets.kv.v1.read_secret(path=path, mount_point=mount)["data"]
        except InvalidPath:
            raise ReferenceUnreadable(reference, "there is no such place in Vault", "put the secret there") from None
        except Forbidden:
            raise ReferenceUnreadable(
                reference, "Vault does not let this token read it", "give VAULT_TOKEN a policy that may"
            ) from None
        except (VaultError, requests.RequestException, KeyError, TypeError, ValueError) as error:
            # The text of such an error may quote the request, the token included: only its kind goes on.
            raise ReferenceUnreadable(
                reference, f"Vault gave no answer that can be used ({type(error).__name__})", "see to VAULT_ADDR"
            ) from None
        return found if isinstance(found, Mapping) else {}

    def _vault(self, reference: Reference) -> Any:
        if self._client is not None:
            return self._client
        address, token = self._environ.get("VAULT_ADDR", ""), self._environ.get("VAULT_TOKEN", "")
        if not address or not token:
            missing = "VAULT_ADDR" if not address else "VAULT_TOKEN"
            raise ReferenceUnreadable(reference, f"{missing} is not set", "set it where the relay is started")
        if not _is_safe(address):
            raise ReferenceUnreadable(reference, "VAULT_ADDR would send the token in clear", "give an https:// address")
        try:
            import hvac
        except ImportError:
            raise ReferenceUnreadable(
                reference, "the library for Vault is not installed", "pip install 'authrelay[vault]'"
            ) from None
        mask(token)
        self._client = hvac.Client(
            url=address,
            token=token,
            namespace=self._environ.get("VAULT_NAMESPACE") or None,
            verify=self._environ.get("VAULT_CACERT") or True,
            timeout=_VAULT_S,
            allow_redirects=False,
        )
        return self._client


def _without_line_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _is_safe(address: str) -> bool:
    parts = urlsplit(address)
    if parts.scheme == "https":
        return True
    try:
        return parts.scheme == "http" and ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
