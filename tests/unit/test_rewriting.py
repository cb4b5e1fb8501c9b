"""Rewriting a stored content: from memory or file to memory or file, and nothing left behind."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from relay.mail.content import Content
from relay.mail.errors import StorageFailed
from relay.mail.reencode import Reencoder
from relay.queue.rewriting import rewrite
from relay.queue.spool import FileSpool
from tests.store import open_store

HEAD = b"From: app@example.com\r\nMIME-Version: 1.0\r\nContent-Type: application/pdf\r\n"
INLINE = 65536


@pytest.fixture
def spool(tmp_path: Path) -> FileSpool:
    spool = FileSpool(tmp_path / "spool", inline_bytes=INLINE)
    spool.open()
    return spool


def files(spool: FileSpool) -> list[str]:
    return [entry.name for entry in spool.folder.iterdir()]


async def stored(spool: FileSpool, wire: bytes) -> Content:
    draft = spool.draft()
    for at in range(0, len(wire), 100_000):
        if draft.add(wire[at : at + 100_000]):
            await draft.drain()
    return await draft.finish()


def octets(spool: FileSpool, content: Content) -> bytes:
    found = content.inline if content.spool is None else spool.path(content.spool).read_bytes()
    assert found is not None
    assert len(found) == content.size
    return found


@pytest.mark.parametrize("size", [0, 2000, 40_000, 60_000, 70_000, 1_000_000])
async def test_the_new_content_takes_the_place_of_the_old(spool: FileSpool, size: int) -> None:
    body = b"x" * size + b"\r\n"
    content = await stored(spool, HEAD + b"\r\n" + body)
    rewritten = await rewrite(spool, content, Reencoder())
    head, _, coded = octets(spool, rewritten).partition(b"\r\n\r\n")
    assert head.endswith(b"Content-Transfer-Encoding: base64")
    assert base64.b64decode(coded) == body
    assert max(map(len, coded.split(b"\r\n"))) == min(76, len(coded) - 2)
    assert (rewritten.spool is None) == (rewritten.size <= INLINE)
    assert files(spool) == ([] if rewritten.spool is None else [rewritten.spool])


@pytest.mark.parametrize("size", [2000, 1_000_000])
async def test_an_untouchable_content_is_given_back_as_it_is(spool: FileSpool, size: int) -> None:
    wire = b"DKIM-Signature: v=1\r\n" + HEAD + b"\r\n" + b"x" * size + b"\r\n"
    content = await stored(spool, wire)
    assert await rewrite(spool, content, reencoder := Reencoder()) is content
    assert reencoder.untouchable == "dkim-signature"
    assert octets(spool, content) == wire
    assert files(spool) == ([] if content.spool is None else [content.spool])


async def test_a_file_that_is_too_short_or_gone_is_a_failure_of_the_store(spool: FileSpool) -> None:
    for spoil in (lambda path: path.write_bytes(path.read_bytes()[:600_000]), Path.unlink):
        content = await stored(spool, HEAD + b"\r\n" + b"x" * 1_000_000 + b"\r\n")
        assert content.spool is not None
        spoil(spool.path(content.spool))
        with pytest.raises(StorageFailed):
            await rewrite(spool, content, Reencoder())
        assert files(spool) == []


async def test_nothing_is_left_when_the_new_content_cannot_be_written(spool: FileSpool, tmp_path: Path) -> None:
    content = await stored(spool, HEAD + b"\r\n" + b"x" * 60_000 + b"\r\n")
    assert content.spool is None
    spool.folder.rmdir()
    with pytest.raises(StorageFailed):
        await rewrite(spool, content, Reencoder())
    assert list(tmp_path.iterdir()) == []


async def test_the_queue_rewrites_in_its_own_spool(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        draft = store.queue.draft()
        draft.add(HEAD + b"\r\n" + b"x" * 100_000 + b"\r\n")
        content = await draft.finish()
        rewritten = await store.queue.rewrite(content, Reencoder())
        assert rewritten.spool not in (None, content.spool)
        assert [entry.name for entry in (tmp_path / "spool").iterdir()] == [rewritten.spool]
