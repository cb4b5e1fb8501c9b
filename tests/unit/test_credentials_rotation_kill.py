"""A rotation that is killed, again and again, by SIGKILL at random moments: every secret opens each time."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from relay.credentials.vault import open_vault
from relay.database.engine import open_database
from relay.database.schema import accounts
from tests.lengths import size_of

KILLS = size_of("VAULT_KILLS", short=4, long=200)
ROWS = 40

_ROTATOR = """
import asyncio, sys
from pathlib import Path
from relay.credentials.vault import open_vault
from relay.database.engine import open_database
from tests.lengths import size_of

async def main(folder):
    async with open_database(folder / "relay.db") as database:
        vault = await open_vault(database, folder / "keys", environ={}, secrets_dir=None)
        print("ready", flush=True)
        while True:
            await vault.add_key()
            await vault.rotate(batch=3)
            for key_id in vault.ring.ids - {vault.ring.primary.id}:
                await vault.drop_key(key_id)

asyncio.run(main(Path(sys.argv[1])))
"""


def _add_accounts(connection: Connection) -> None:
    connection.execute(
        insert(accounts),
        [
            {"address": f"a{n}@x.example", "provider": "custom", "auth": "password", "created_at": 0}
            for n in range(ROWS)
        ],
    )


@pytest.mark.slow
@pytest.mark.timeout(30 + 3 * KILLS)
async def test_a_killed_rotation_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    expected = {account: f"secret {account}" for account in range(1, ROWS + 1)}
    async with open_database(tmp_path / "relay.db") as database:
        await database.write(_add_accounts)
        vault = await open_vault(database, tmp_path / "keys", environ={}, secrets_dir=None)
        for account, secret in expected.items():
            await vault.store(account, "password", secret)
    chance = random.Random()
    torn = 0
    for _ in range(KILLS):
        rotator = subprocess.Popen(
            [sys.executable, "-c", _ROTATOR, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert rotator.stdout is not None
        assert rotator.stderr is not None
        try:
            assert rotator.stdout.readline() == "ready\n", rotator.stderr.read()
            with pytest.raises(subprocess.TimeoutExpired):  # it never ends by itself
                rotator.wait(chance.uniform(0, 0.15))
        finally:
            rotator.kill()
            rotator.communicate()
        async with open_database(tmp_path / "relay.db") as database:
            vault = await open_vault(database, tmp_path / "keys", environ={}, secrets_dir=None)
            assert not vault.created_key
            assert {account: await vault.fetch(account, "password") for account in expected} == expected
            usage = await vault.key_usage()
            torn += len([count for count in usage.values() if count]) > 1
    async with open_database(tmp_path / "relay.db") as database:
        vault = await open_vault(database, tmp_path / "keys", environ={}, secrets_dir=None)
        await vault.rotate()
        for key_id in vault.ring.ids - {vault.ring.primary.id}:
            await vault.drop_key(key_id)
        assert await vault.key_usage() == {vault.ring.primary.id: ROWS}
        assert await vault.verify() == []
    if KILLS >= 50:
        assert torn, "no kill met a rotation in its middle: the proof is void"
