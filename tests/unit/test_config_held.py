"""Settings as the daemon holds them say what the models say, and no more."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from relay.config.held import Concealed, held
from relay.config.settings import EgressSettings, ListenerSettings, LogSettings, NoticesSettings, RelaySettings

SECRET = "hunter2"
SETTINGS = RelaySettings(
    data_dir=Path("/srv/relay"),
    listeners=(ListenerSettings(port=2526, allowed_networks="10.0.0.0/8"), ListenerSettings(path="/run/relay.sock")),
    egress=EgressSettings(proxy="http://me@proxy:3128", proxy_password=SecretStr(SECRET)),
    notices=NoticesSettings(urls=f"json://me:{SECRET}@host/"),
)


def test_every_field_and_property_is_there_with_its_value_also_on_the_other_side_of_a_pipe() -> None:
    assert _compared(SETTINGS, pickle.loads(pickle.dumps(held(SETTINGS)))) > 100


def _compared(model: Any, kept: Any) -> int:
    """How many values were found equal, in all sections."""
    if isinstance(model, tuple) and len(model) == len(kept):
        return sum(map(_compared, model, kept))
    if isinstance(model, SecretStr):
        assert kept.get_secret_value() == model.get_secret_value()
        return 1
    if not isinstance(model, BaseModel):
        assert kept == model
        return 1
    members = [name for name in dir(type(model)) if isinstance(getattr(type(model), name), property)]
    own = [name for name in members if not name.startswith(("_", "model_"))]
    return sum(_compared(getattr(model, name), getattr(kept, name)) for name in (*type(model).model_fields, *own))


def test_no_section_has_a_method_that_the_daemon_would_miss() -> None:
    """Properties are kept, since the fields settle them; what takes arguments is a function beside the models."""
    for section in {type(SETTINGS), *(type(value) for _, value in SETTINGS if isinstance(value, BaseModel))}:
        added = {name for name, member in vars(section).items() if callable(member) and not name.startswith("_")}
        assert added <= {"settings_customise_sources"}, section


def test_they_are_frozen_equal_by_value_and_show_no_secret() -> None:
    kept = held(SETTINGS)
    with pytest.raises(AttributeError):
        kept.listener = None
    assert kept == held(SETTINGS.model_copy())
    assert kept != held(SETTINGS.model_copy(update={"log": LogSettings(level="debug")}))
    assert held(kept) is kept
    assert SECRET not in f"{kept!r}{kept}{Concealed(SECRET)}"


def test_what_holds_them_has_not_loaded_pydantic() -> None:
    program = "import pickle, sys; pickle.load(sys.stdin.buffer); print('pydantic' in sys.modules)"
    done = subprocess.run((sys.executable, "-c", program), input=pickle.dumps(held(SETTINGS)), capture_output=True)
    assert (done.stdout, done.stderr) == (b"False\n", b"")
