"""Which address of the API is which action; everything else of a route follows from the action's own signature."""

from __future__ import annotations

from typing import Literal, NamedTuple

Method = Literal["GET", "POST", "PATCH", "DELETE"]


class Route(NamedTuple):
    """`path` names arguments of the action in braces; the others come in the query (GET, DELETE) or the body."""

    method: Method
    path: str
    action: str
    status: int = 200


def _noun(name: str, key: str, singular: str, *more: Route) -> tuple[Route, ...]:
    return (
        Route("GET", f"/{name}", f"{singular}.list"),
        Route("POST", f"/{name}", f"{singular}.add", 201),
        *more,
        Route("DELETE", f"/{name}/{{{key}}}", f"{singular}.remove"),
    )


ROUTES: tuple[Route, ...] = (
    Route("GET", "/overview", "overview"),
    *_noun(
        "accounts",
        "account",
        "account",
        Route("GET", "/accounts/logins", "account.logins"),
        Route("GET", "/accounts/{account}", "account.show"),
        Route("PATCH", "/accounts/{account}", "account.set"),
        Route("POST", "/accounts/{account}/password", "account.set_password"),
        Route("POST", "/accounts/{account}/test", "account.test"),
        Route("POST", "/accounts/{account}/suspend", "account.suspend"),
        Route("POST", "/accounts/{account}/resume", "account.resume"),
    ),
    *_noun("senders", "pattern", "sender", Route("GET", "/senders/which", "sender.which")),
    *_noun(
        "clients",
        "name",
        "client",
        Route("POST", "/clients/try", "client.try"),
        Route("GET", "/clients/{name}", "client.show"),
        Route("PATCH", "/clients/{name}", "client.set"),
    ),
    Route("GET", "/queue", "queue.list"),
    Route("GET", "/queue/summary", "queue.summary"),
    Route("POST", "/queue/count", "queue.count"),
    Route("GET", "/queue/{id}", "queue.show"),
    Route("POST", "/queue/hold", "queue.hold"),
    Route("POST", "/queue/release", "queue.release"),
    Route("POST", "/queue/retry", "queue.retry"),
    Route("POST", "/queue/remove", "queue.remove"),
    Route("GET", "/rejected", "rejected.list"),
    Route("GET", "/trace", "trace"),
    Route("GET", "/trace/{id}", "trace"),
    Route("GET", "/explain", "explain"),
    Route("GET", "/explain/unknown", "explain.unknown"),
    Route("GET", "/notices", "notice.list"),
    Route("GET", "/nodes", "node.list"),
    Route("GET", "/audit", "audit"),
    Route("GET", "/check", "check"),
    Route("GET", "/keys", "key.list"),
    Route("POST", "/keys", "key.add", 201),
    Route("POST", "/keys/rotate", "key.rotate"),
    Route("DELETE", "/keys/{id}", "key.drop"),
    *_noun(
        "users",
        "name",
        "user",
        Route("PATCH", "/users/{name}", "user.set"),
        Route("POST", "/users/{name}/invitation", "user.invite", 201),
    ),
    *_noun("tokens", "name", "token"),
)
