"""Every action by its name, and the check of what it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from relay.control.context import Control, ControlError
from relay.control.parameters import parameters_of

Action = Callable[..., Awaitable[Any]]

_PLACES: Mapping[str, str] = {  # module of this room, and function
    "account.add": "accounts.account_add",
    "account.set": "accounts.account_set",
    "account.list": "listing.account_list",
    "account.logins": "listing.account_logins",
    "account.connect": "connecting.account_connect",
    "account.begin_sign_in": "browser_sign_in.account_begin_sign_in",
    "account.which_sign_in": "browser_sign_in.account_which_sign_in",
    "account.finish_sign_in": "browser_sign_in.account_finish_sign_in",
    "account.show": "listing.account_show",
    "account.remove": "account_states.account_remove",
    "account.set_password": "account_states.account_set_password",
    "account.suspend": "account_states.account_suspend",
    "account.resume": "account_states.account_resume",
    "account.test": "probing.account_test",
    "account.test_imap": "probing_imap.account_test_imap",
    "sender.add": "senders.sender_add",
    "sender.list": "senders.sender_list",
    "sender.remove": "senders.sender_remove",
    "sender.which": "senders.sender_which",
    "client.add": "clients.client_add",
    "client.set": "clients.client_set",
    "client.list": "clients.client_list",
    "client.show": "clients.client_show",
    "client.remove": "clients.client_remove",
    "client.try": "trying.client_try",
    "queue.list": "queue.queue_list",
    "queue.show": "queue.queue_show",
    "queue.summary": "summary.queue_summary",
    "queue.content": "contents.queue_content",
    "queue.count": "operating.queue_count",
    "queue.hold": "operating.queue_hold",
    "queue.release": "operating.queue_release",
    "queue.retry": "operating.queue_retry",
    "queue.remove": "operating.queue_remove",
    "rejected.list": "rejected.rejected_list",
    "notice.list": "notices.notice_list",
    "notice.test": "notices.notice_test",
    "trace": "trace.trace",
    "explain": "explain.explain",
    "explain.unknown": "unknown.explain_unknown",
    "key.list": "keys.key_list",
    "key.add": "keys.key_add",
    "key.rotate": "keys.key_rotate",
    "key.drop": "keys.key_drop",
    "check": "check.check",
    "audit": "audit.audit_list",
    "migrate": "migrate.migrate",
    "node.list": "nodes.node_list",
    "health": "observing.health",
    "metrics": "observing.metrics",
    "overview": "observing.overview",
    "log.tail": "observing.log_tail",
    "settings.show": "observing.settings_show",
    "principal": "access.admission.principal",
    "console.login": "access.login.console_login",
    "console.accept": "access.login.console_accept",
    "console.invitation": "access.login.console_invitation",
    "console.passkey_begin": "access.login.console_passkey_begin",
    "console.passkey_login": "access.login.console_passkey_login",
    "console.logout": "access.login.console_logout",
    "console.oidc_begin": "access.openid.console_oidc_begin",
    "console.oidc_finish": "access.openid.console_oidc_finish",
    "console.ready": "access.login.console_ready",
    "console.password": "access.users.console_password",
    "user.list": "access.users.user_list",
    "user.add": "access.users.user_add",
    "user.set": "access.users.user_set",
    "user.remove": "access.users.user_remove",
    "user.invite": "access.users.user_invite",
    "me": "access.users.me",
    "me.password": "access.users.me_password",
    "me.totp_begin": "access.factors.me_totp_begin",
    "me.totp_finish": "access.factors.me_totp_finish",
    "me.totp_remove": "access.factors.me_totp_remove",
    "me.recovery_codes": "access.factors.me_recovery_codes",
    "me.passkey_begin": "access.factors.me_passkey_begin",
    "me.passkey_finish": "access.factors.me_passkey_finish",
    "me.passkey_rename": "access.factors.me_passkey_rename",
    "me.passkey_remove": "access.factors.me_passkey_remove",
    "me.proof_begin": "access.proving.me_proof_begin",
    "me.prove": "access.proving.me_prove",
    "me.oidc_begin": "access.openid.me_oidc_begin",
    "token.list": "access.tokens.token_list",
    "token.add": "access.tokens.token_add",
    "token.remove": "access.tokens.token_remove",
    "import.apply": "imports.applying.import_apply",
    "backup.begin": "backup.backup_begin",
    "backup.end": "backup.backup_end",
    "apply": "apply.apply",
    "reload": "reload.reload",
}


class _Actions(Mapping[str, Action]):
    """Each action is loaded when it is first asked for: an idle daemon has no use for most of them."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Action:
        module, _, function = self._places[name].rpartition(".")
        found: Action = getattr(import_module(f"relay.control.{module}"), function)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


ACTIONS: Mapping[str, Action] = _Actions(_PLACES)

_MAX_TEXT = 65536


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # octets that were no UTF-8 on the command line
        return False
    return True


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT and _encodable(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 10_000 and all(_text(member) for member in value)


def _named_texts(value: object) -> bool:
    return isinstance(value, dict) and len(value) <= 100 and all(map(_text, (*value.keys(), *value.values())))


def _entries(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 10_000 and all(_named_texts(member) for member in value)


# By the annotation as it is written in the action; a test makes sure that every one in use is here.
FITS: Mapping[str, Callable[[object], bool]] = {
    "str": _text,
    "str | None": lambda value: value is None or _text(value),
    "int": _whole,
    "int | None": lambda value: value is None or _whole(value),
    "bool": lambda value: isinstance(value, bool),
    "bool | None": lambda value: value is None or isinstance(value, bool),
    "list[str]": _texts,
    "dict[str, str]": _named_texts,
    "dict[str, str] | None": lambda value: value is None or _named_texts(value),
    "list[dict[str, str]]": _entries,
    "list[str] | None": lambda value: value is None or _texts(value),
}


async def run(control: Control, action: str, arguments: Mapping[str, Any]) -> Any:
    """Call an action by name; its result is JSON. Raises ControlError, also for a wrong call.

    No value of an argument ever becomes part of an error here: it may be a password.
    """
    function = ACTIONS.get(action)
    if function is None:
        raise ControlError("there is no such action", "use the command line of the same version as the daemon")
    known = {parameter.name: parameter for parameter in parameters_of(function)[1:]}  # the first is the control itself
    for name, parameter in known.items():
        if name in arguments:
            if not FITS[parameter.annotation](arguments[name]):
                raise ControlError(f"{action}: argument {name} has the wrong form", f"give {parameter.annotation}")
        elif parameter.default is inspect.Parameter.empty:
            raise ControlError(f"{action}: argument {name} is missing", f"give {parameter.annotation}")
    if arguments.keys() - known.keys():
        raise ControlError(
            f"{action}: an argument is not known here", "use the command line of the same version as the daemon"
        )
    return await function(control, **arguments)
