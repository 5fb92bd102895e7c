"""Servers that answer nonsense, and nonsense for the server."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = weft.Retry(deadline=0.3, base=0.01)


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """Listens, and gives each connection the next answer, whatever it asks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(10)
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.close()
            thread.join()


def http(body: bytes, status: str = "200 OK", headers: str = "", cut: int = 0) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body) + cut}\r\n{headers}\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", b"[]", b"null", b"{}", b'{"status": 7}', b"\xff\xfe", b"[" * 100_000],
)
def test_an_answer_that_is_none_is_garbled(body: bytes) -> None:
    with (
        answering(http(body)) as url,
        weft.Client(url, retry=QUICK) as client,
        pytest.raises(weft.GarbledError),
    ):
        client.health()


@pytest.mark.parametrize("answer", [b"", b"\x00" * 99, b"HTTP/9.9 x\r\n\r\n", http(b"{}", cut=9)])
def test_what_is_no_http_is_unreachable(answer: bytes) -> None:
    with (
        answering(answer) as url,
        weft.Client(url, retry=weft.Retry(deadline=0)) as client,
        pytest.raises(weft.UnreachableError),
    ):
        client.health()


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    busy = http(b'{"detail": "full"}', "429 Too Many Requests", "retry-after: 0\r\n")
    fine = http(b'{"status": "ok", "version": "1", "cluster": "c"}')
    with answering(busy, b"", fine) as url, weft.Client(url) as client:
        assert client.health().status == "ok"
    later = http(b'{"detail": "full"}', "429 Too Many Requests", "retry-after: 3600\r\n")
    with (
        answering(later) as url,
        weft.Client(url) as client,
        pytest.raises(weft.QueueFullError) as caught,
    ):
        client.health()
    assert caught.value.retry_after == 3600


def test_a_page_of_garbage_is_garbled() -> None:
    for body in (b'{"items": 7}', b'{"items": [7]}', b'{"items": [], "next": 7}'):
        with (
            answering(http(body)) as url,
            weft.Client(url, retry=QUICK) as client,
            pytest.raises(weft.GarbledError),
        ):
            list(client.nodes())


@pytest.mark.parametrize(
    "fields",
    [
        {"runtime": 7},
        {"runtime": "op", "op": "\x00"},
        {"runtime": "op", "op": {"op": "crc32c"}, "tasks": None, "name": "../../etc"},
        {"runtime": "op", "op": {"op": "crc32c"}, "inputs": {"array": -1}},
        {"runtime": "op", "op": {"op": "crc32c"}, "inputs": {"array": 10**30}},
        {"runtime": "process", "process": {"command": ["\x00"]}, "timeout": "-1s"},
    ],
)
def test_nonsense_is_refused_by_the_server_which_goes_on(
    client: weft.Client, fields: dict[str, object]
) -> None:
    with pytest.raises(weft.WeftError) as caught:
        client.submit(fields)
    assert caught.value.reason == "invalid-spec"
    assert caught.value.status == 400
    assert client.health().status == "ok"


@pytest.mark.parametrize("name", ["", "..", "a/b", "?x=1", "job-\x00", "é" * 200])
def test_names_of_jobs_are_never_paths(client: weft.Client, name: str) -> None:
    with pytest.raises(weft.WeftError):
        client.cancel(name)
    with pytest.raises(ValueError, match="JSON"):
        client.submit(runtime="op", op={"op": "crc32c"}, priority=float("nan"))
