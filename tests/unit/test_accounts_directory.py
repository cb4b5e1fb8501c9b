"""The directory: one consistent view from memory, replaced as a whole."""

import asyncio
from ipaddress import ip_address

import pytest

from relay.accounts import store
from relay.accounts.directory import Directory
from relay.accounts.model import Client
from relay.accounts.passwords import DUMMY_HASH
from relay.accounts.store import Snapshot
from relay.config.settings import UpstreamDefaults
from relay.database.engine import open_database
from relay.mail.tolerance import DEFAULT
from tests.store import lay_store

NOW = 1_790_000_000_000


@pytest.fixture
async def database(tmp_path):
    async with open_database(lay_store(tmp_path) / "relay.db") as database:
        yield database


async def registered(database, senders=(), clients=()):
    """One account with these sender patterns; clients as name: (networks, senders)."""

    def write(connection):
        account_id = store.add_account(connection, "Ann@example.com", now_ms=NOW)
        for pattern in senders:
            store.add_sender(connection, pattern, account_id, now_ms=NOW)
        for name, networks, patterns in clients:
            store.add_client(connection, name, networks=networks, senders=patterns, now_ms=NOW)
        return account_id

    account_id = await database.write(write)
    return account_id, await Directory.open(database, UpstreamDefaults())


async def test_it_answers_from_what_was_committed(database):
    account_id, directory = await registered(database, ["ann@example.com"])
    account = directory.account(account_id)
    assert directory.by_address(" ANN@example.com") is account
    assert directory.accounts() == [account]
    assert directory.route("Ann+x@example.com").account_id == account_id
    assert directory.explain_route("ann@example.com").route == directory.route("ann@example.com")
    assert [sender.pattern for sender in directory.senders()] == ["ann@example.com"]
    assert directory.clients() == []
    assert directory.account(account_id + 1) is None
    assert directory.by_address("bob@example.com") is None


async def test_a_change_shows_after_a_reload_and_not_before(database):
    account_id, directory = await registered(database)
    before = directory.upstream(directory.account(account_id))
    await database.write(lambda c: store.update_account(c, account_id, host="new.example"))
    assert directory.upstream(directory.account(account_id)) == before
    await directory.reload()
    after = directory.upstream(directory.account(account_id))
    assert (after.host, after.revision) == ("new.example", 2)
    assert after != before


async def test_an_account_from_an_older_view_is_filled_as_it_is(database):
    account_id, directory = await registered(database)
    old = directory.account(account_id)
    await database.write(lambda c: store.update_account(c, account_id, host="new.example"))
    await directory.reload()
    assert directory.upstream(old).host == "smtp.office365.com"


async def test_many_reloads_at_once_end_with_the_last_commit(database):
    account_id, directory = await registered(database)
    for round_ in range(5):
        await database.write(lambda c, n=round_: store.update_account(c, account_id, per_day=n))
        await asyncio.gather(*(directory.reload() for _ in range(5)))
        assert directory.account(account_id).per_day == round_


async def test_a_reload_that_fails_keeps_the_old_view(database):
    account_id, directory = await registered(database)
    await database.write(lambda c: c.exec_driver_sql("DROP TABLE clients"))
    with pytest.raises(Exception, match="clients"):
        await directory.reload()
    assert directory.account(account_id) is not None


async def test_without_client_entries_everybody_may_use_every_sender(database):
    _, directory = await registered(database, ["*"])
    client = directory.client_for("192.0.2.7")
    assert client is None
    assert directory.may_use(client, "ann@example.com")
    assert directory.may_use(client, "")


async def test_with_client_entries_who_matches_none_may_use_nothing(database):
    clients = [("erp", ["192.0.2.0/24"], ["@example.com"]), ("any", ["198.51.100.0/24"], [])]
    _, directory = await registered(database, ["*"], clients)
    erp, anything = directory.client_for("192.0.2.7"), directory.client_for("198.51.100.7")
    assert directory.may_use(erp, "Ann@EXAMPLE.com")
    assert not directory.may_use(erp, "ann@example.org")
    assert not directory.may_use(erp, "")
    assert directory.may_use(anything, "ann@example.org")
    assert directory.may_use(anything, "")
    assert directory.client_for("203.0.113.1") is None
    assert not directory.may_use(None, "ann@example.com")


async def test_a_client_that_was_removed_meanwhile_may_use_nothing(database):
    _, directory = await registered(database, ["*"], [("erp", ["192.0.2.0/24"], []), ("x", ["198.51.100.1"], [])])
    erp = directory.client_for("192.0.2.7")
    await database.write(lambda c: store.remove_client(c, "erp"))
    await directory.reload()
    assert not directory.may_use(erp, "ann@example.com")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", "host"),
        ("10.1.2.4", "floor"),
        ("10.9.9.9", "site"),
        ("172.16.0.1", "rest"),
        ("::ffff:10.1.2.3", "host"),
        ("2001:db8::5", "six"),
        ("fe80::1%eth0", None),
        ("::1", None),
        ("nonsense", None),
    ],
)
async def test_the_longest_prefix_wins(database, address, expected):
    clients = [
        ("rest", ["0.0.0.0/0"], []),
        ("site", ["10.0.0.0/8"], []),
        ("floor", ["10.1.2.0/24"], []),
        ("host", ["10.1.2.3"], []),
        ("six", ["2001:db8::/32"], []),
    ]
    _, directory = await registered(database, clients=clients)
    found = directory.client_for(address)
    assert (found.name if found else None) == expected
    if expected and "%" not in address:
        assert directory.client_for(ip_address(address)) == found


async def test_an_empty_directory_knows_nobody(database):
    directory = Directory(database, UpstreamDefaults(), Snapshot())
    assert directory.route("ann@example.com") is None
    assert directory.accounts() == directory.senders() == directory.clients() == []


async def one_client(database, **settings):
    """A directory with one entry, and that entry."""
    await database.write(lambda c: store.add_client(c, "erp", networks=["192.0.2.0/24"], now_ms=NOW, **settings))
    directory = await Directory.open(database, UpstreamDefaults())
    return directory, directory.client_named("erp")


async def test_a_client_is_found_by_name_and_by_login(database):
    login = {"login": "Erp", "password_hash": DUMMY_HASH}
    await database.write(lambda c: store.add_client(c, "roaming", networks=[], now_ms=NOW, **login))
    directory, erp = await one_client(database)
    roaming = directory.client_by_login("Erp")
    assert roaming is directory.client_named("roaming")
    assert directory.client_for("192.0.2.7") is erp
    assert directory.client_for("198.51.100.7") is None
    for login in ("erp", "", "Erp "):
        assert directory.client_by_login(login) is None
    assert directory.client_named("nobody") is None
    assert directory.may_use(roaming, "ann@example.com")


async def test_switches_are_the_defaults_with_what_the_entry_says(database):
    directory, erp = await one_client(database, tolerate=["no-brackets", "no-bare-lf"])
    assert directory.tolerance_of(erp) == (DEFAULT | {"no-brackets"}) - {"bare-lf"}
    assert directory.tolerance_of(erp) is directory.tolerance_of(erp)
    assert directory.tolerance_of(None) == DEFAULT
    assert directory.tolerance_of(Client("gone", ())) == DEFAULT


@pytest.mark.parametrize(
    ("allowed", "denied", "recipient", "expected"),
    [
        ([], [], "anyone@example.com", True),
        (["ann@example.com"], [], "ANN@Example.com", True),
        (["ann@example.com"], [], "ann+x@example.com.", True),
        (["ann@example.com"], [], "bob@example.com", False),
        (["@example.com"], [], "bob@EXAMPLE.com", True),
        (["@example.com"], [], "bob@mail.example.com", False),
        (["@example.com"], [], "bob@notexample.com", False),
        (["@*.example.com"], [], "bob@a.b.example.com", True),
        (["@*.example.com"], [], "bob@example.com", False),
        (["@*.example.com"], [], "bob@badexample.com", False),
        (["@bücher.example"], [], "bob@xn--bcher-kva.example", True),
        ([], ["ann@example.com"], "ann@example.com", False),
        ([], ["ann@example.com"], '"ANN"@example.com', False),
        ([], ["ann@example.com"], "ann+hidden@example.com", False),
        ([], ["ann@example.com"], "bob@example.com", True),
        ([], ["@*.com"], "bob@example.com", False),
        (["ann@example.com"], ["@example.com"], "ann@example.com", False),
        (["@example.com"], ["ann@example.com"], "bob@example.com", True),
        (["@example.com"], [], "no-domain", False),
        ([], ["@example.com"], "no-domain", True),
        (["@example.com"], [], "", False),
        (["@example.com"], [], "x@" + "a." * 126 + "example.com", False),
    ],
)
async def test_recipients_are_those_allowed_without_those_denied(database, allowed, denied, recipient, expected):
    directory, erp = await one_client(database, recipients=allowed, denied=denied)
    assert directory.may_send_to(erp, recipient) is expected
    assert directory.may_send_to(None, recipient)


@pytest.mark.parametrize(
    ("reverse_path", "expected"),
    [
        ("root@localhost", "exact@example.com"),
        ("ROOT@LocalHost", "exact@example.com"),
        ("root+cron@localhost", "exact@example.com"),
        ("www-data@localhost", "domain@example.com"),
        ("x@elsewhere.example", "x@elsewhere.example"),
        ("", ""),
    ],
)
async def test_a_map_follows_the_steps_of_routes(database, reverse_path, expected):
    pairs = [("@localhost", "domain@example.com"), ("root@localhost", "exact@example.com")]
    directory, erp = await one_client(database, sender_map=pairs)
    assert directory.mapped(erp, reverse_path) == expected


async def test_a_map_s_star_takes_the_rest_and_the_null_path_needs_an_entry_of_its_own(database):
    directory, erp = await one_client(database, sender_map=[("*", "app@example.com")])
    assert directory.mapped(erp, "anyone@elsewhere.example") == "app@example.com"
    assert directory.mapped(erp, "") == ""
    both = [("*", "app@example.com"), ("<>", "bounces@example.com")]
    await database.write(lambda c: store.change_client(c, "erp", sender_map=both))
    await directory.reload()
    assert directory.mapped(erp, "") == "bounces@example.com"


async def test_a_change_counts_for_a_session_that_holds_the_entry_of_before(database):
    directory, erp = await one_client(database, sender_map=[("*", "app@example.com")])
    await database.write(lambda c: store.change_client(c, "erp", denied=["@example.org"], tolerate=["odd-dots"]))
    await directory.reload()
    assert not directory.may_send_to(erp, "ann@example.org")
    assert "odd-dots" in directory.tolerance_of(erp)
    await database.write(lambda c: store.remove_client(c, "erp"))
    await directory.reload()
    assert not directory.may_send_to(erp, "ann@example.com")
    assert directory.mapped(erp, "x@example.com") == "x@example.com"
