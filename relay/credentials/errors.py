"""What can be wrong with a key or a sealed secret. Carries names and ids, never a value."""

from __future__ import annotations

from collections.abc import Iterable

from relay.mail.errors import RelayError


class CredentialError(RelayError):
    """Root of this room's exceptions."""


class KeyRefused(CredentialError):
    """A key, its file or its folder is not acceptable. `source` names it, `remedy` says what to do."""

    def __init__(self, source: str, reason: str, remedy: str) -> None:
        super().__init__(f"{source}: {reason}; {remedy}")
        self.source, self.reason, self.remedy = source, reason, remedy


class KeyMissing(CredentialError):
    """Secrets are sealed under keys that the ring does not have, or its primary is. Empty: it has no key at all."""

    def __init__(self, key_ids: Iterable[str]) -> None:
        self.key_ids = tuple(sorted(key_ids))
        names = ", ".join(self.key_ids)
        super().__init__(
            f"the key ring lacks {names}, which is in use; put the key file back (nothing was changed)"
            if names
            else "the key ring is empty"
        )


class WrongKey(CredentialError):
    """No secret sealed under `key_id` opens with the key of that name."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"key {key_id} opens none of the secrets sealed under that name: it is not the key they were sealed "
            "with; put the right key file back (nothing was changed)"
        )
        self.key_id = key_id


class KeyInUse(CredentialError):
    """`rows` secrets are still sealed under the key that was to be dropped."""

    def __init__(self, key_id: str, rows: int) -> None:
        super().__init__(f"{rows} secrets are still sealed under key {key_id}; run `relay key rotate` first")
        self.key_id, self.rows = key_id, rows


class KeyNotDroppable(CredentialError):
    """The key cannot be dropped for another reason than its use: it is primary, or not ours to remove."""

    def __init__(self, key_id: str, reason: str) -> None:
        super().__init__(f"key {key_id} cannot be dropped: {reason}")
        self.key_id, self.reason = key_id, reason


class NoSuchKey(CredentialError):
    """An operator named a key that the ring does not have."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id}; `relay key list` shows them")
        self.key_id = key_id


class NoSuchAccount(CredentialError):
    """A secret was to be stored for an account that does not exist."""

    def __init__(self, account_id: int) -> None:
        super().__init__(f"there is no account {account_id}")
        self.account_id = account_id


class SecretMissing(CredentialError):
    """The account has no secret of that kind."""

    def __init__(self, account_id: int, kind: str) -> None:
        super().__init__(f"no {kind.replace('_', ' ')} is stored for it")
        self.account_id, self.kind = account_id, kind


class SecretUnreadable(CredentialError):
    """The sealed row is damaged, or belongs to another account, kind or key: it does not open."""

    def __init__(self, account_id: int, kind: str, key_id: str) -> None:
        super().__init__(f"the {kind} of account {account_id}, sealed under key {key_id}, does not open")
        self.account_id, self.kind, self.key_id = account_id, kind, key_id


class SecretRefused(CredentialError):
    """The value cannot be kept, or not be used to log in: `field` is which, `reason` why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field, self.reason = field, reason
