"""Which settings a reload takes over."""

from __future__ import annotations

from pathlib import Path

from relay.config.held import held
from relay.config.reloading import reloading
from relay.config.settings import DispatchSettings, ListenerSettings, OAuthSettings, RelaySettings

BEFORE = held(RelaySettings(data_dir=Path("/srv/relay")))


def test_the_same_settings_change_nothing() -> None:
    same = reloading(BEFORE, RelaySettings(data_dir=Path("/srv/relay")))
    assert (same.settings, same.changed, same.restart) == (BEFORE, (), ())


def test_what_can_be_taken_over_is_and_what_cannot_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    wanted = RelaySettings(
        data_dir=Path("/srv/other"),
        listener=ListenerSettings(port=2526, max_recipients=200),
        dispatch=DispatchSettings(probe_s=5),
        oauth=OAuthSettings(google_client_id="x", ca_file=tmp_path / "ca.pem"),
    )
    new = reloading(BEFORE, wanted)
    assert new.changed == (
        "RELAY_LISTENER__PORT",
        "RELAY_LISTENER__MAX_RECIPIENTS",
        "RELAY_DISPATCH__PROBE_S",
        "RELAY_OAUTH__GOOGLE_CLIENT_ID",
    )
    assert new.restart == ("RELAY_DATA_DIR", "RELAY_KEYS_DIR", "RELAY_DATABASE__URL", "RELAY_OAUTH__CA_FILE")
    assert (new.settings.data_dir, new.settings.keys_dir, new.settings.database) == (
        BEFORE.data_dir,
        BEFORE.keys_dir,
        BEFORE.database,
    )
    assert (new.settings.oauth.google_client_id, new.settings.oauth.ca_file) == ("x", None)
    assert [door.port for door in new.settings.doors] == [2526]
    assert reloading(new.settings, wanted).restart == new.restart  # named at every reload until the restart
