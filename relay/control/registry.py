"""Every action by its name, and the check of what it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from relay.control import (
    accounts,
    apply,
    audit,
    check,
    clients,
    connecting,
    explain,
    keys,
    listing,
    migrate,
    probing,
    queue,
    reload,
    senders,
    trace,
    trying,
    unknown,
)
from relay.control.context import Control, ControlError

Action = Callable[..., Awaitable[Any]]

ACTIONS: Mapping[str, Action] = {
    "account.add": accounts.account_add,
    "account.set": accounts.account_set,
    "account.list": listing.account_list,
    "account.logins": listing.account_logins,
    "account.connect": connecting.account_connect,
    "account.show": listing.account_show,
    "account.remove": accounts.account_remove,
    "account.set_password": accounts.account_set_password,
    "account.suspend": accounts.account_suspend,
    "account.resume": accounts.account_resume,
    "account.test": probing.account_test,
    "sender.add": senders.sender_add,
    "sender.list": senders.sender_list,
    "sender.remove": senders.sender_remove,
    "sender.which": senders.sender_which,
    "client.add": clients.client_add,
    "client.set": clients.client_set,
    "client.list": clients.client_list,
    "client.show": clients.client_show,
    "client.remove": clients.client_remove,
    "client.try": trying.client_try,
    "queue.list": queue.queue_list,
    "queue.show": queue.queue_show,
    "queue.summary": queue.queue_summary,
    "queue.hold": queue.queue_hold,
    "queue.release": queue.queue_release,
    "queue.retry": queue.queue_retry,
    "queue.remove": queue.queue_remove,
    "trace": trace.trace,
    "explain": explain.explain,
    "explain.unknown": unknown.explain_unknown,
    "key.list": keys.key_list,
    "key.add": keys.key_add,
    "key.rotate": keys.key_rotate,
    "key.drop": keys.key_drop,
    "check": check.check,
    "audit": audit.audit_list,
    "migrate": migrate.migrate,
    "apply": apply.apply,
    "reload": reload.reload,
}

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


# By the annotation as it is written in the action; a test makes sure that every one in use is here.
FITS: Mapping[str, Callable[[object], bool]] = {
    "str": _text,
    "str | None": lambda value: value is None or _text(value),
    "int": _whole,
    "int | None": lambda value: value is None or _whole(value),
    "bool": lambda value: isinstance(value, bool),
    "list[str]": _texts,
    "list[str] | None": lambda value: value is None or _texts(value),
}


async def run(control: Control, action: str, arguments: Mapping[str, Any]) -> Any:
    """Call an action by name; its result is JSON. Raises ControlError, also for a wrong call.

    No value of an argument ever becomes part of an error here: it may be a password.
    """
    function = ACTIONS.get(action)
    if function is None:
        raise ControlError("there is no such action", "use the command line of the same version as the daemon")
    known = dict(list(inspect.signature(function).parameters.items())[1:])  # the first is the control itself
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
