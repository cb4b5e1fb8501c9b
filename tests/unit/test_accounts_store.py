"""Accounts and senders in a real store: what is taken, what is refused and why."""

import pytest
from sqlalchemy import create_engine, event, insert, select

from relay.accounts import conditions, store
from relay.accounts.conditions import ConditionKind
from relay.accounts.errors import (
    AccountExists,
    AccountInUse,
    AccountNotFound,
    BadSetting,
    SenderExists,
    SenderNotFound,
)
from relay.accounts.model import Account, AccountState, Sender
from relay.accounts.normalise import BadAddress, BadPattern
from relay.database.schema import deliveries, metadata, secrets
from relay.diagnosis.model import Who
from relay.mail.errors import RelayError

NOW = 1_790_000_000_000


@pytest.fixture
def connection():
    engine = create_engine("sqlite://")
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys = ON"))
    with engine.begin() as connection:
        metadata.create_all(connection)
        yield connection
    engine.dispose()


def add(connection, address="ann@example.com", **settings):
    return store.add_account(connection, address, now_ms=NOW, **settings)


def test_an_account_reads_back_as_it_was_added(connection):
    settings = {
        "provider": "custom",
        "auth": "none",
        "host": "mail.example.com",
        "port": 465,
        "tls": "implicit",
        "trust": "name:mail.example.com",
        "login": "DOMAIN\\ann",
        "max_connections": 0,
        "per_minute": 30,
        "per_day": 1000,
        "in_doubt": "hold",
    }
    account_id = add(connection, " Ann@Example.com ", **settings)
    expected = Account(id=account_id, address="Ann@Example.com", created_at=NOW, **settings)
    assert store.load(connection).accounts == (expected,)
    assert store.get_account(connection, account_id) == expected
    assert store.find_account(connection, "ann@EXAMPLE.com") == expected


def test_an_account_needs_no_more_than_an_address(connection):
    account = store.get_account(connection, add(connection))
    assert account == Account(account.id, "ann@example.com", "default", "password", created_at=NOW)


@pytest.mark.parametrize("again", ["ann@example.com", "ANN@example.com", '"ann"@Example.Com'])
def test_an_address_has_one_account(connection, again):
    first = add(connection)
    with pytest.raises(AccountExists) as caught:
        add(connection, again)
    assert caught.value.account_id == first


@pytest.mark.parametrize("address", ["", "ann", "@example.com", "a b@example.com", "<a@b.example>"])
def test_an_account_is_an_address(connection, address):
    with pytest.raises(BadAddress):
        add(connection, address)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("provider", "hotmale"),
        ("auth", "kerberos"),
        ("tls", "yes"),
        ("in_doubt", "bounce"),
        ("host", "mail.example.com:587"),
        ("host", "smtp://mail.example.com"),
        ("host", "a b"),
        ("host", ""),
        ("host", "mail.example.com\r\nQUIT"),
        ("port", 0),
        ("port", 65536),
        ("port", "587"),
        ("port", True),
        ("max_connections", -1),
        ("per_minute", 10**12),
        ("per_day", 1.5),
        ("login", ""),
        ("login", "ann\x00"),
        ("login", "a" * 321),
        ("trust", "*"),
        ("trust", "sha256:12"),
        ("colour", "red"),
        ("auth", None),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(connection, field, value):
    with pytest.raises(BadSetting) as caught:
        add(connection, **{field: value})
    assert caught.value.field == field
    assert caught.value.remedy
    assert store.load(connection).accounts == ()


def test_a_provider_with_a_host_for_each_region_needs_one(connection):
    with pytest.raises(BadSetting) as caught:
        add(connection, provider="ses")
    assert caught.value.field == "host"
    account_id = add(connection, provider="ses", host="email-smtp.eu-west-1.amazonaws.com")
    with pytest.raises(BadSetting):
        store.update_account(connection, account_id, host=None)


def test_an_update_changes_what_is_given_and_the_revision(connection):
    account_id = add(connection, host="a.example", per_day=5)
    assert store.update_account(connection, account_id, host=None, per_minute=0) == 2
    account = store.get_account(connection, account_id)
    assert (account.host, account.per_day, account.per_minute, account.revision) == (None, 5, 0, 2)
    assert store.bump_revision(connection, account_id) == 3
    with pytest.raises(BadSetting):
        store.update_account(connection, account_id, port=0)
    assert store.get_account(connection, account_id).revision == 3


def test_a_state_is_remembered_bounded_and_forgotten(connection):
    account_id = add(connection)
    reply = "535 5.7.8 no\r\nforged" + "x" * 5000
    store.set_state(connection, account_id, AccountState.SUSPENDED, "generic-auth-credentials-invalid", reply, NOW)
    account = store.get_account(connection, account_id)
    assert account.state is AccountState.SUSPENDED
    assert account.state_cause == "generic-auth-credentials-invalid"
    assert account.state_reply.startswith("535 5.7.8 no  forged")
    assert len(account.state_reply) == 1024
    assert account.revision == 1
    store.set_state(connection, account_id, "ok", "operator", None, NOW + 1)
    account = store.get_account(connection, account_id)
    assert (account.state, account.state_cause, account.state_reply, account.state_since) == (
        AccountState.OK,
        None,
        None,
        NOW + 1,
    )


@pytest.mark.parametrize(
    "operation",
    [
        lambda c: store.get_account(c, 99),
        lambda c: store.find_account(c, "nobody@example.com"),
        lambda c: store.update_account(c, 99, port=25),
        lambda c: store.bump_revision(c, 99),
        lambda c: store.set_state(c, 99, "ok", None, None, NOW),
        lambda c: store.remove_account(c, 99),
        lambda c: store.add_sender(c, "*", 99, now_ms=NOW),
    ],
)
def test_an_account_that_is_not_there_is_said_so(connection, operation):
    with pytest.raises(AccountNotFound) as caught:
        operation(connection)
    assert caught.value.account in (99, "nobody@example.com")
    assert isinstance(caught.value, RelayError)


def _delivery(account_id, **values):
    row = {"message_id": 1, "number": 0, "recipient": "bob@example.org", "account_id": account_id, "state": "queued"}
    return {**row, "due_at": 0, "attempts": 0, "token": 0, **values}


def test_an_account_in_use_stays(connection):
    account_id = add(connection)
    store.add_sender(connection, "ann@example.com", account_id, now_ms=NOW)
    connection.execute(insert(deliveries).values(**_delivery(account_id)))
    connection.execute(insert(deliveries).values(**_delivery(account_id, number=1, state="relayed", settled_at=NOW)))
    with pytest.raises(AccountInUse) as caught:
        store.remove_account(connection, account_id)
    assert (caught.value.senders, caught.value.waiting) == (("ann@example.com",), 1)


def test_a_removed_account_takes_its_secrets_along(connection):
    account_id = add(connection)
    other = add(connection, "bob@example.com")
    for owner in (account_id, other):
        connection.execute(
            insert(secrets).values(account_id=owner, kind="password", key_id="k", sealed=b"x", changed_at=NOW)
        )
    store.remove_account(connection, account_id)
    assert [account.id for account in store.load(connection).accounts] == [other]
    assert connection.scalars(select(secrets.c.account_id)).all() == [other]


def test_a_sender_is_stored_normalised_and_once(connection):
    account_id = add(connection)
    assert store.add_sender(connection, "@Example.COM", account_id, now_ms=NOW, from_policy="rewrite") == "@example.com"
    assert store.load(connection).senders == (Sender("@example.com", account_id, "rewrite", NOW),)
    assert store.add_sender(connection, "@EXAMPLE.com", account_id, now_ms=NOW + 1) == "@example.com"
    assert store.load(connection).senders == (Sender("@example.com", account_id, "keep", NOW),)
    other = add(connection, "bob@example.com")
    with pytest.raises(SenderExists) as caught:
        store.add_sender(connection, "@EXAMPLE.com", other, now_ms=NOW)
    assert (caught.value.pattern, caught.value.account) == ("@example.com", "ann@example.com")
    with pytest.raises(BadPattern):
        store.add_sender(connection, "example.com", account_id, now_ms=NOW)
    with pytest.raises(BadSetting):
        store.add_sender(connection, "*", account_id, now_ms=NOW, from_policy="forge")
    assert store.remove_sender(connection, "@EXAMPLE.com") == "@example.com"
    with pytest.raises(SenderNotFound):
        store.remove_sender(connection, "@example.com")


def test_who_sets_the_transport_hears_no_more_of_where_it_moved(connection):
    account_id = add(connection)
    moved = {"account_id": account_id, "kind": ConditionKind.MOVED, "cause": "moved-to-graph", "who": Who.OWNER}
    conditions.open_condition(connection, detail="", now_ms=NOW, **moved)
    store.update_account(connection, account_id, transport="smtp", per_minute=1)
    assert len(conditions.open_conditions(connection)) == 1
    store.update_account(connection, account_id, transport="graph")
    assert conditions.open_conditions(connection) == []
