"""A process that refreshes a turning grant and is killed by SIGKILL, again and again: the grant is never lost."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from relay.credentials.oauth import OAuthApp
from relay.credentials.oauth.answers import Grant
from relay.credentials.oauth.client import OAuthClient
from relay.credentials.oauth.http import HttpsPost
from relay.credentials.oauth.tokens import Tokens
from relay.credentials.vault import open_vault
from relay.database.engine import open_database
from relay.database.schema import accounts
from tests.lengths import size_of
from tests.peers.authority import running_authority

KILLS = size_of("OAUTH_KILLS", short=4, long=200)
SMTP = "https://outlook.office.com/SMTP.Send"

_REFRESHER = """
import asyncio, sys
from pathlib import Path
from relay.credentials.oauth import parse_oauth_app
from relay.credentials.oauth.client import OAuthClient
from relay.credentials.oauth.http import HttpsPost
from relay.credentials.oauth.tokens import Tokens
from relay.credentials.vault import open_vault
from relay.database.engine import open_database

async def main(folder, ca, app):
    async with open_database(folder / "relay.db") as database:
        vault = await open_vault(database, folder / "keys", environ={}, secrets_dir=None)
        https = HttpsPost(ca)
        await https.ready()
        tokens = Tokens(vault, database, OAuthClient(https), lambda account_id: (app, "oauth-code"))
        print("ready", flush=True)
        while True:
            await tokens.renew(1)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), parse_oauth_app(sys.argv[3])))
"""


def _add_account(connection: Connection) -> None:
    values = {"address": "ann@example.com", "provider": "m365", "auth": "oauth-code", "created_at": 0}
    connection.execute(insert(accounts).values(values))


@pytest.mark.slow
@pytest.mark.timeout(60 + 4 * KILLS)
async def test_a_refresh_killed_anywhere_loses_no_grant(tmp_path: Path) -> None:
    (tmp_path / "authority").mkdir()
    with running_authority(tmp_path / "authority") as authority:
        app = OAuthApp("microsoft", "public", tenant="contoso.example", token_url=authority.url("token"))
        async with open_database(tmp_path / "relay.db") as database:
            await database.write(_add_account)
            vault = await open_vault(database, tmp_path / "keys", environ={}, secrets_dir=None)
            tokens = Tokens(vault, database, OAuthClient(HttpsPost(authority.ca)), lambda _: (app, "oauth-code"))
            first = authority.grant("public", f"{SMTP} offline_access")
            await tokens.sign_in(1, Grant("unused", 3600, first))
        chance = random.Random()
        unanswered = 0
        for _ in range(KILLS):
            refresher = subprocess.Popen(
                [sys.executable, "-c", _REFRESHER, str(tmp_path), str(authority.ca), app.to_json()],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert refresher.stdout is not None
            assert refresher.stderr is not None
            try:
                assert refresher.stdout.readline() == "ready\n", refresher.stderr.read()
                with pytest.raises(subprocess.TimeoutExpired):  # it never ends by itself
                    refresher.wait(chance.uniform(0, 0.15))
            finally:
                refresher.kill()
                refresher.communicate()
            async with open_database(tmp_path / "relay.db") as database:
                vault = await open_vault(database, tmp_path / "keys", environ={}, secrets_dir=None)
                kept = await vault.fetch(1, "refresh_token")
                unanswered += any(grant.parent is not None and grant.parent.token == kept for grant in authority.grants)
                tokens = Tokens(vault, database, OAuthClient(HttpsPost(authority.ca)), lambda _: (app, "oauth-code"))
                assert authority.check(await tokens.renew(1), SMTP)
                await tokens.close()
        assert set(authority.asked) == {("refresh_token", 200)}
        assert not authority.revoked_families
        if KILLS >= 50:
            assert unanswered, "no kill met a grant between its turn and its write: the proof is void"
