"""The scripted API server, asked by a client that is not ours."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.peers.api_server import ApiServer, Fault

GRAPH = "/v1.0/users/ann@example.com/sendMail"
GMAIL = "/upload/gmail/v1/users/me/messages/send?uploadType=media"
MAIL = b"From: a@example.com\r\nTo: B <b@example.org>\r\nBcc: c@example.org,\r\n d@example.org\r\n\r\nbcc: x\r\n"


async def post(api: ApiServer, folder: Path, path: str, body: bytes, kind: str) -> tuple[int, Any]:
    def ask() -> tuple[int, Any]:
        ca = folder / "ca.pem"
        api.authority.cert_pem.write_to_path(ca)
        client = http.client.HTTPSConnection(
            "localhost", api.port, context=ssl.create_default_context(cafile=str(ca)), timeout=10
        )
        client.request("POST", path, body, {"Authorization": "Bearer tok", "Content-Type": kind})
        answer = client.getresponse()
        text = answer.read()
        client.close()
        return answer.status, json.loads(text) if text else None

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize(("path", "kind"), [(GRAPH, "text/plain"), (GMAIL, "message/rfc822")])
async def test_who_the_header_names_gets_the_mail_and_bcc_goes(tmp_path: Path, path: str, kind: str) -> None:
    async with ApiServer() as api:
        body = base64.b64encode(MAIL) if path == GRAPH else MAIL
        status, answer = await post(api, tmp_path, path, body, kind)
        assert status == (202 if path == GRAPH else 200)
        assert (answer is None) == (path == GRAPH)
        found = await api.next_mail()
    assert found.recipients == ("b@example.org", "c@example.org", "d@example.org")
    assert found.content == b"From: a@example.com\r\nTo: B <b@example.org>\r\n\r\nbcc: x\r\n"
    assert (found.token, found.mailbox) == ("tok", "ann@example.com" if path == GRAPH else "")


@pytest.mark.parametrize(
    ("path", "kind", "body", "status"),
    [
        (GRAPH, "text/plain", MAIL, 400),
        (GRAPH, "text/plain", b"", 400),
        (GRAPH, "text/plain", base64.b64encode(b"Subject: nobody\r\n\r\n"), 400),
        (GRAPH, "text/plain", b"A" * 4_194_308, 413),
        (GMAIL, "message/rfc822", b"Subject: nobody\r\n\r\n", 400),
        (GMAIL, "text/plain", MAIL, 400),
        ("/elsewhere", "text/plain", MAIL, 404),
    ],
)
async def test_what_the_provider_would_refuse(tmp_path: Path, path: str, kind: str, body: bytes, status: int) -> None:
    async with ApiServer() as api:
        assert (await post(api, tmp_path, path, body, kind))[0] == status
        assert api.mails.empty()


async def test_faults_come_once_each_in_their_order(tmp_path: Path) -> None:
    async with ApiServer() as api:
        api.order(Fault(429, {"error": {"code": "x"}}), Fault(cut="reply"))
        body = base64.b64encode(MAIL)
        assert await post(api, tmp_path, GRAPH, body, "text/plain") == (429, {"error": {"code": "x"}})
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            await post(api, tmp_path, GRAPH, body, "text/plain")
        assert (await post(api, tmp_path, GRAPH, body, "text/plain"))[0] == 202
        assert [status for _, status in api.asked] == [429, 0, 202]


async def test_tokens_are_looked_at(tmp_path: Path) -> None:
    async with ApiServer() as api:
        api.takes_token = lambda token: False
        assert (await post(api, tmp_path, GRAPH, b"", "text/plain"))[0] == 401
        assert (await post(api, tmp_path, GMAIL, b"", "message/rfc822"))[0] == 401
