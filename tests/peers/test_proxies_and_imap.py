"""The scripted proxies and the scripted IMAP server, against clients that are not ours."""

from __future__ import annotations

import asyncio
import http.client
import imaplib
import ssl
from base64 import b64encode
from pathlib import Path

import pytest
from python_socks import ProxyError
from python_socks.async_.asyncio import Proxy

from tests.peers.certificates import write_certificates
from tests.peers.proxies import running_proxy
from tests.peers.scripted_imap import running_imap

LOGIN = "relay:pass word"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    await writer.drain()
    writer.close()


async def test_http_connect_as_the_standard_library_asks() -> None:
    async with (
        await asyncio.start_server(_answer, "127.0.0.1", 0) as server,
        running_proxy("http", login=LOGIN) as proxy,
    ):
        port = server.sockets[0].getsockname()[1]
        proxy.resolves["web.example"] = "127.0.0.1"

        def ask(headers: dict[str, str]) -> bytes:
            client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
            client.set_tunnel("web.example", port, headers=headers)
            client.request("GET", "/")
            body = client.getresponse().read()
            client.close()
            return body

        good = {"Proxy-Authorization": f"Basic {b64encode(LOGIN.encode()).decode()}"}
        assert await asyncio.to_thread(ask, good) == b"ok"
        with pytest.raises(OSError, match="407"):
            await asyncio.to_thread(ask, {})
        assert proxy.asked == [f"web.example:{port}"]
        assert proxy.logins == [LOGIN, ""]


async def test_socks_5_as_python_socks_asks() -> None:
    async with (
        await asyncio.start_server(_answer, "127.0.0.1", 0) as server,
        running_proxy("socks5", login=LOGIN) as proxy,
    ):
        port = server.sockets[0].getsockname()[1]
        connected = await Proxy.from_url(proxy.url).connect("127.0.0.1", port)
        connected.close()
        assert proxy.asked == [f"127.0.0.1:{port}"]
        with pytest.raises(ProxyError):
            await Proxy.from_url(f"socks5://relay:wrong@127.0.0.1:{proxy.port}").connect("127.0.0.1", port)
        proxy.resolves["gone.example"] = "127.0.0.1"
        server.close()
        with pytest.raises(ProxyError) as refused:
            await Proxy.from_url(proxy.url).connect("gone.example", port)
        assert refused.value.error_code == 5


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_imap_as_the_standard_library_speaks_it(tls: str, tmp_path: Path) -> None:
    certificates = write_certificates(tmp_path)
    context = ssl.create_default_context(cafile=str(certificates.ca))
    async with running_imap(certificates, tls=tls, capabilities="AUTH=PLAIN STARTTLS") as imap:

        def speak() -> tuple[list[bytes], list[object]]:
            if tls == "implicit":
                client: imaplib.IMAP4 = imaplib.IMAP4_SSL("localhost", imap.port, ssl_context=context, timeout=10)
            else:
                client = imaplib.IMAP4("localhost", imap.port, timeout=10)
                client.starttls(context)
            client.authenticate("PLAIN", lambda _: b"\0ann\0secret")
            count = client.select("INBOX", readonly=True)[1]
            folders = client.list()[1]
            client.logout()
            return count, folders

        count, folders = await asyncio.to_thread(speak)
        assert count == [b"3"]
        assert len(folders) >= 3
        assert imap.logins == [("PLAIN", "ann", "secret")]
        assert imap.encrypted == [True]
