"""The console's benchmark visits every page, and says no more than its slices show."""

from __future__ import annotations

import random
import re
from importlib import import_module
from pkgutil import iter_modules

from fastapi.routing import APIRoute
from starlette.routing import Match

from benchmarks.console_pages import names, parted
from benchmarks.console_viewers import decided, interval
from relay.console import pages

# Steps of something that was begun elsewhere: nothing is counted or listed there.
_STEPS = {"/system/rotate/{job_id}", "/system/check/{job_id}", "/mail/{account}/test/{job_id}"}
_STEPS |= {"/oauth/finish", "/login/oidc/callback"}


def test_every_page_is_visited() -> None:
    visited = {re.sub(r"\?.*", "", parted(name)[1]).format(middle="x", invitation="/invite/x") for name in names()}
    modules = [import_module(f"{pages.__name__}.{found.name}") for found in iter_modules(pages.__path__)]
    routers = [
        module.router
        for module in modules
        if module.__name__ != "relay.console.pages.routes" and "router" in vars(module)
    ]
    routes = [
        one for router in routers for one in router.routes if isinstance(one, APIRoute) and one.methods == {"GET"}
    ]
    assert len(routes) > 20
    missing = {
        route.path
        for route in routes
        if not any(route.matches({"type": "http", "path": path, "method": "GET"})[0] is Match.FULL for path in visited)
    }
    assert missing == _STEPS


def test_the_interval_holds_the_median_and_narrows_with_more_blocks() -> None:
    chance = random.Random(7)
    losses = [chance.gauss(0.02, 0.03) for _ in range(64)]
    low, high = interval(losses)
    assert low < sorted(losses)[32] < high
    few_low, few_high = interval(losses[:8])
    assert high - low < few_high - few_low
    assert decided(losses, 0.05)
    assert not decided(losses, 0.02)
    assert interval([0.01] * 8) == (0.01, 0.01)
