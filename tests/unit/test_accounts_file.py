"""The accounts file: what it declares, refuses, changes and keeps hands off; no secret in any of its words."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from relay.accounts import conditions, store
from relay.accounts.conditions import ConditionKind
from relay.accounts.model import AccountState
from relay.cli.applying import line_of
from relay.config.settings import RelaySettings
from relay.control import accounts, clients, registry
from relay.control.apply import SecretsUnreadable, apply_file
from relay.control.context import Control, ControlError
from relay.control.declaration import DeclarationRefused, read_declaration
from relay.control.declared_tables import AccountTable, ClientTable
from relay.control.parameters import parameters_of
from relay.daemon.build import open_control
from relay.diagnosis.model import Who
from relay.queue.model import Arrival
from tests.peers.vault import TOKEN, VaultPeer
from tests.store import arrival, lay_store

SECRET = "a-secret-of-the-file-tests"
DOCS = Path(__file__).parents[2] / "docs" / "accounts-file.md"
BILLING = '[accounts."billing@example.com"]\nhost = "mail.example.com"\npassword = { file = "secret" }\n'


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as opened:
        yield opened.asked_by("tester", lambda _: None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(SECRET)
    return tmp_path / "accounts.toml"


async def apply(control: Control, file: Path, text: str, *, dry_run: bool = False) -> list[str]:
    """The lines of the plan."""
    file.write_text(text)
    result: Any = await registry.run(control, "apply", {"file": str(file), "dry_run": dry_run})
    assert result["applied"] is not dry_run
    lines = [line_of(change) for change in result["changes"]]
    assert SECRET not in "".join(lines)
    return lines


async def refused(control: Control, action: str, **arguments: Any) -> str:
    with pytest.raises(ControlError) as caught:
        await registry.run(control, action, arguments)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


async def state(control: Control) -> tuple[Any, ...]:
    """All that is registered, with the secrets in clear, ids and times left out."""
    snapshot = await control.database.read(store.load)
    secrets = {
        (account.address, kind): await control.vault.fetch(account.id, kind)
        for account in snapshot.accounts
        for kind in await control.vault.kinds(account.id)
    }
    return snapshot, secrets


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(DeclarationRefused, match="cannot be read"):
        read_declaration(tmp_path / "x")


# -- form -----------------------------------------------------------------------------------------------------------


def test_every_option_of_the_commands_is_a_key_of_the_file() -> None:
    """So that an option that comes to `account add` or `client add` comes to the file with it."""
    options = {one.name for one in parameters_of(accounts.account_add)} - {"control", "address", "invite"}
    assert set(AccountTable.model_fields) == options
    options = {one.name for one in parameters_of(clients.client_add)} - {"control", "name"}
    assert set(ClientTable.model_fields) == options


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = y", "not TOML (at line 1, column 5)"),
        ("[account.x]", "account: there is no such key; did you mean accounts?"),
        ('[accounts."a@example.com"]\nprt = 1', '"a@example.com".prt: there is no such key; did you mean port?'),
        ('[accounts."a@example.com"]\nport = "25"', '.port: "25" cannot be; give a whole number without quotes'),
        ('[accounts."a@example.com"]\nport = 70000', ".port: 70000 cannot be; a port from 1 to 65535"),
        ('[accounts."a@example.com"]\ntls = "on"', '.tls: "on" cannot be; give "starttls", "implicit" or "none"'),
        ('[accounts."a@example.com"]\nprovider = "m364"', ".provider: m364 cannot be; one of default, custom, m365"),
        (f'[accounts."a@example.com"]\npassword = "{SECRET}"', '"a@example.com".password: a secret does not belong'),
        (f'[accounts."a@example.com"]\nclient_secret = ["{SECRET}"]', ".client_secret: not a reference"),
        (f'[clients.erp]\npassword = "{SECRET}"', 'clients.erp.password: a secret does not belong'),
        ('[accounts."not an address"]', 'accounts."not an address": not an address is not possible here'),
        ('[accounts."a@example.com"]\n[accounts."A@EXAMPLE.COM"]', "is the same mailbox as"),
        ('[senders]\n"@example.com" = 5', 'senders."@example.com": 5 cannot be; give a table'),
        ('[senders]\n"@example.com" = {account = "a@example.com", from = "kep"}', ".from: kep cannot be; one of keep"),
        ('[senders]\n"@@" = "a@example.com"', 'senders."@@": @@ is not possible here'),
        ("[clients.erp]\nsenders = []", "clients.erp: network is missing; give at least one network"),
        ('[clients.erp]\nnetworks = "10.0.0.0/8"', "clients.erp.networks: "),
        ('[clients.erp]\nnetworks = ["10.0.0.1/8"]', "its host bits are set; write 10.0.0.0/8"),
        ('[clients.erp]\nnetworks = ["10.0.0.0/8"]\ntolerate = ["bare-lv"]', "did you mean bare-lf?"),
    ],
)  # fmt: skip
def test_a_problem_names_table_and_key_and_the_right_form(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text(text)
    with pytest.raises(DeclarationRefused) as caught:
        read_declaration(file)
    (problem,) = caught.value.problems
    assert line in problem
    assert SECRET not in str(caught.value)
    assert str(caught.value.as_refusal()).startswith(f"{file}: ")


def test_every_problem_is_found_at_once(tmp_path: Path) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text('[accounts."a@example.com"]\nport = 0\nper_day = -1\n[clients.x]\nanswer = "soon"')
    with pytest.raises(DeclarationRefused) as caught:
        read_declaration(file)
    assert len(caught.value.problems) == 3
    assert "(and 2 more: " in str(caught.value.as_refusal())


# -- apply ----------------------------------------------------------------------------------------------------------


async def test_the_example_of_the_page_is_applied(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    for name in ("billing", "web"):
        (tmp_path / name).write_text(f"{SECRET}-{name}\n")
    monkeypatch.setenv("SCANS_PASSWORD", SECRET)
    with VaultPeer({"kv/data/relay/erp": {"client_secret": SECRET}}) as vault:
        monkeypatch.setenv("VAULT_ADDR", vault.address)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        text = example.replace("/run/secrets", str(tmp_path))
        lines = await apply(control, tmp_path / "accounts.toml", text)
        assert [line.partition(":")[0] for line in lines] == [
            *("+ account billing@example.com", "+ account desk@example.com", "+ account erp@example.com"),
            *("+ account scans@example.com", "+ sender *", "+ sender @example.com", "+ sender billing@example.com"),
            *("+ sender desk@example.com", "+ sender erp@example.com", "+ sender scans@example.com"),
            *("+ client erp", "+ client printers", "+ client web"),
        ]
        assert await apply(control, tmp_path / "accounts.toml", text) == []  # nothing changes, nothing is written
    erp = control.directory.by_address("erp@example.com")
    assert erp is not None
    assert await control.vault.fetch(erp.id, "client_secret") == SECRET
    printers = control.directory.client_named("printers")
    assert printers is not None
    assert printers.identity == "map"
    trail: Any = await registry.run(control, "audit", {})
    assert len(trail) == len(lines)
    assert SECRET not in str(trail)


async def test_a_plan_tells_before_and_after_and_changes_nothing(control: Control, file: Path) -> None:
    await apply(control, file, BILLING + "per_day = 10\n")
    before = await state(control)
    (file.parent / "secret").write_text(f"{SECRET}-2")
    lines = await apply(control, file, BILLING + "port = 465\n[clients.x]\nnetworks = ['10.0.0.0/8']\n", dry_run=True)
    assert lines == [
        "~ account billing@example.com: port none → 465, per_day 10 → none, password: changed",
        "+ client x: networks 10.0.0.0/8",
    ]
    assert await state(control) == before
    assert await apply(control, file, file.read_text()) == lines
    account = control.directory.by_address("billing@example.com")
    assert account is not None
    assert (account.port, account.per_day) == (465, None)
    assert await control.vault.fetch(account.id, "password") == f"{SECRET}-2"


async def test_all_or_nothing(control: Control, file: Path) -> None:
    await apply(control, file, BILLING)
    before = await state(control)
    file.write_text(BILLING.replace("billing", "other") + '[senders]\n"@example.com" = "nobody@example.com"\n')
    assert 'senders."@example.com": there is no account nobody@example.com' in await refused(
        control, "apply", file=str(file)
    )
    file.write_text('[accounts."x@example.com"]\nhost = "mail.example.com"\npassword = { file = "missing" }\n')
    with pytest.raises(SecretsUnreadable, match=r'accounts\."x@example\.com"\.password: file .*missing cannot be read'):
        await apply_file(control, file)
    (file.parent / "secret").write_text("two\nlines")
    file.write_text(BILLING)
    assert "second line" in await refused(control, "apply", file=str(file))
    assert await state(control) == before


async def test_oauth_settings_are_refused_in_words_of_the_file(control: Control, file: Path) -> None:
    file.write_text('[accounts."a@example.com"]\nprovider = "m365"\nauth = "oauth-app"\ntenant = "x.example"\n')
    text = await refused(control, "apply", file=str(file))
    assert 'accounts."a@example.com": an app signs in with a secret or a certificate; give client_secret' in text
    assert "--" not in text


async def test_hands_off_what_the_file_declares(control: Control, file: Path) -> None:
    text = '[senders]\n"@example.com" = "billing@example.com"\n[clients.erp]\nnetworks = ["10.0.0.0/8"]\n'
    await apply(control, file, BILLING + text)
    for action, arguments in (
        ("account.set", {"account": "billing@example.com", "port": 25}),
        ("account.set_password", {"account": "billing@example.com", "password": SECRET}),
        ("account.remove", {"account": "billing@example.com", "force": True}),
        ("sender.add", {"pattern": "@example.com", "account": "billing@example.com", "from_policy": "rewrite"}),
        ("sender.remove", {"pattern": "@EXAMPLE.com"}),
        ("client.set", {"name": "erp", "networks": ["10.0.0.0/8"]}),
        ("client.remove", {"name": "erp"}),
    ):
        words = await refused(control, action, **arguments)
        assert f"declared in {file}; change it there, then `relay apply`" in words
    assert await apply(control, file, file.read_text()) == []
    await registry.run(control, "account.suspend", {"account": "billing@example.com"})  # no setting
    await registry.run(control, "sender.add", {"pattern": "@other.example", "account": "billing@example.com"})
    assert "@other.example made by hand use it" in await _removing(control, file)
    assert await registry.run(control, "apply", {"release": True}) == {"released": 4}
    await registry.run(control, "account.set", {"account": "billing@example.com", "port": 25})


async def _removing(control: Control, file: Path) -> str:
    kept = file.read_text()
    file.write_text("")
    words = await refused(control, "apply", file=str(file))
    file.write_text(kept)
    return words


async def test_a_password_that_the_file_does_not_name_is_set_by_hand(control: Control, file: Path) -> None:
    text = BILLING.replace('password = { file = "secret" }\n', "")
    await apply(control, file, text)
    await registry.run(control, "account.set_password", {"account": "billing@example.com", "password": "by-hand"})
    assert await apply(control, file, text) == []
    account = control.directory.by_address("billing@example.com")
    assert account is not None
    assert await control.vault.fetch(account.id, "password") == "by-hand"
    assert await apply(control, file, BILLING) == ["~ account billing@example.com: password: changed"]
    assert await apply(control, file, text) == ["~ account billing@example.com: password: removed"]
    assert await control.vault.kinds(account.id) == []


async def test_what_people_made_becomes_the_file_s(control: Control, file: Path) -> None:
    hand: dict[str, Any] = {"address": "billing@example.com", "host": "mail.example.com", "password": SECRET}
    await registry.run(control, "account.add", hand)
    await registry.run(control, "account.add", hand | {"address": "other@example.com"})
    await registry.run(control, "sender.add", {"pattern": "*", "account": "other@example.com"})
    lines = await apply(control, file, BILLING + '[senders]\n"*" = "billing@example.com"\n')
    assert lines == [
        f"~ account billing@example.com: from now on declared in {file}",
        f"~ sender *: account other@example.com → billing@example.com, from now on declared in {file}",
        f"~ sender billing@example.com: from now on declared in {file}",
    ]
    assert await apply(control, file, "") == [
        *("- account billing@example.com", "- sender *", "- sender billing@example.com")
    ]
    assert [account.address for account in control.directory.accounts()] == ["other@example.com"]


async def test_an_account_with_mail_goes_when_the_mail_has_gone(control: Control, file: Path) -> None:
    await apply(control, file, BILLING)
    account = control.directory.by_address("billing@example.com")
    assert account is not None
    waiting: Arrival = arrival(account=account.id, sender="billing@example.com")
    await control.queue.accept(waiting)
    assert await apply(control, file, "") == ["- sender billing@example.com"]
    applied = await apply_file(control, file)
    assert (applied.changes, applied.waiting) == ((), {"billing@example.com": 1})
    listed: Any = await registry.run(control, "queue.list", {})
    await registry.run(control, "queue.remove", {"ids": [listed[0]["id"]]})
    assert await apply(control, file, "") == ["- account billing@example.com"]


async def test_two_clients_exchange_their_networks(control: Control, file: Path) -> None:
    text = '[clients.a]\nnetworks = ["10.1.0.0/16"]\n[clients.b]\nnetworks = ["10.2.0.0/16"]\n'
    await apply(control, file, text)
    exchanged = text.replace("10.1", "10.9").replace("10.2", "10.1").replace("10.9", "10.2")
    assert await apply(control, file, exchanged) == [
        "~ client a: networks 10.1.0.0/16 → 10.2.0.0/16",
        "~ client b: networks 10.2.0.0/16 → 10.1.0.0/16",
    ]
    file.write_text(text.replace("10.2", "10.1"))
    assert "clients.a: 10.1.0.0/16 belongs to client b" in await refused(control, "apply", file=str(file))


async def test_a_new_password_lets_a_stopped_account_go_on(control: Control, file: Path) -> None:
    await apply(control, file, BILLING)
    account = control.directory.by_address("billing@example.com")
    assert account is not None

    async def suspended_for(cause: str) -> AccountState:
        """Its state after another password was applied."""
        await control.database.write(
            lambda connection: store.set_state(connection, account.id, AccountState.SUSPENDED, cause)
        )
        secret = file.parent / "secret"
        secret.write_text(secret.read_text() + "x")
        await apply(control, file, BILLING)
        after = control.directory.account(account.id)
        assert after is not None
        return after.state

    assert await suspended_for("login-refused") is AccountState.OK
    assert await suspended_for("operator") is AccountState.SUSPENDED


async def test_an_account_that_moved_as_the_file_allows_is_not_moved_back(control: Control, file: Path) -> None:
    def declared(fallback: str) -> str:
        return (
            f'[accounts."erp@example.com"]\nprovider = "m365"\nauth = "oauth-app"\ntenant = "contoso.onmicrosoft.com"\n'
            f'client_id = "11111111-2222-3333-4444-555555555555"\nclient_secret = {{ file = "secret" }}\n{fallback}'
        )

    def transport() -> str:
        account = control.directory.by_address("erp@example.com")
        assert account is not None
        return account.transport

    allowed = declared('fallback = "graph"\n')
    await apply(control, file, allowed)
    account = control.directory.by_address("erp@example.com")
    assert account is not None

    def move(connection: Connection) -> None:  # as daemon.moving does
        store.update_account(connection, account.id, transport="graph")
        what = {"kind": ConditionKind.MOVED, "cause": "moved-to-graph", "who": Who.ADMINISTRATOR, "detail": ""}
        conditions.open_condition(connection, account_id=account.id, now_ms=1, **what)

    await control.database.write(move)
    await control.directory.reload()
    assert await apply(control, file, allowed) == []
    assert await apply(control, file, allowed + "per_minute = 7\n") != []
    assert transport() == "graph"
    assert "transport" in "".join(await apply(control, file, declared("")))  # allowed no more
    assert transport() == "smtp"


async def test_which_file(tmp_path: Path, file: Path) -> None:
    file.write_text(BILLING)
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as without:
        assert "set RELAY_ACCOUNTS_FILE" in await refused(without, "apply")
    other = tmp_path / "other.toml"
    other.write_text("")
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"), accounts_file=file)) as opened:
        assert len((await apply_file(opened, file)).changes) == 2
        assert f"RELAY_ACCOUNTS_FILE is {file}" in await refused(opened, "apply", file=str(other))
        assert "which would take all of it again" in await refused(opened, "apply", release=True)
        assert (await registry.run(opened, "apply", {"file": str(other), "dry_run": True}))["changes"]
        lines: Any = await registry.run(opened, "check", {"login": False})
        assert [line["status"] for line in lines if line["item"] == "accounts file"] == ["ok"]
        (tmp_path / "secret").unlink()
        lines = await registry.run(opened, "check", {"login": False})
        assert [line["status"] for line in lines if line["item"] == "accounts file"] == ["failed"]
