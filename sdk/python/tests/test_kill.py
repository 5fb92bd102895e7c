"""The server is killed without a warning and started again, on the same port and directory."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

import oracle
import weft
from conftest import ROOT, Server, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 100_000


def small_inputs(count: int = COUNT) -> list[bytes]:
    return [random.randbytes(random.randrange(32)) for _ in range(count)]


def killing(server: Server, inputs: list[bytes], at: int) -> Iterator[bytes]:
    """Kills the server when the client asks for an input."""
    for index, data in enumerate(inputs):
        if index == at:
            server.kill_for_a_while()
        yield data


def test_a_map_over_100_000_inputs_survives_two_kills(server: Server) -> None:
    inputs = small_inputs()
    with server.client() as client:
        results = client.map("crc32c", killing(server, inputs, 25_500))
        for index, (data, result) in enumerate(zip(inputs, results)):
            if index == 61_234:
                server.kill_for_a_while()
            assert result.value == oracle.crc32c(data), index
        assert index == COUNT - 1
        assert next(results, None) is None
        assert server.kills == 2
        assert [job.tasks.total for job in client.jobs()] == [10_000] * 10


def test_a_streamed_job_survives_kills_amid_its_tasks_and_its_results(server: Server) -> None:
    inputs = small_inputs()
    with server.client() as client:
        job = client.submit(
            runtime="op", op=weft.op("crc32c"), tasks=killing(server, inputs, 60_000)
        )
        assert job.tasks.total == COUNT
        found: dict[int, int] = {}
        for result in client.results(job):
            assert result.task not in found
            found[result.task] = result.value
            if len(found) == 30_000:
                server.kill_for_a_while()
        assert found == {task: oracle.crc32c(data) for task, data in enumerate(inputs)}
        assert server.kills == 2
        assert [known.id for known in client.jobs()] == [job.id]


def test_an_asynchronous_map_survives_a_kill(server: Server) -> None:
    inputs = small_inputs(30_000)

    async def main() -> int:
        right = 0
        async with weft.AsyncClient.from_admin(server.data_dir) as client:
            results = client.map(weft.op("counteq", 42), killing(server, inputs, 15_000))
            async for result in results:
                right += result.value == inputs[right].count(42)
        return right

    assert anyio.run(main) == len(inputs)
    assert server.kills == 1


def test_events_go_on_after_a_kill(server: Server) -> None:
    async def main() -> list[weft.Event]:
        async with weft.AsyncClient.from_admin(server.data_dir) as client:
            last = [event async for event in client.events(follow=False)][-1].seq
            seen = []
            # A stream that missed what it waits for would wait for ever.
            with anyio.fail_after(120):
                async for event in client.events():
                    seen.append(event)
                    if event.seq == last:
                        server.kill_for_a_while()
                    if event.type == "weft.server.started" and event.seq > last:
                        return seen
        raise AssertionError("the stream ended")

    numbers = [event.seq for event in anyio.run(main)]
    assert all(before < after for before, after in zip(numbers, numbers[1:])), numbers
    assert server.kills == 1


def test_the_ten_lines_give_the_right_answers_under_two_kills(server: Server) -> None:
    env = {**os.environ, "WEFT_CONTEXT": str(server.data_dir)}
    with server.client() as client:

        def completed() -> int:
            return sum(job.tasks.completed for job in client.jobs())

        with subprocess.Popen(
            [sys.executable, str(ROOT / "examples/python/map_op.py")],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        ) as program:
            for wanted in (1, 40_000):
                eventually(lambda wanted=wanted: completed() >= wanted)  # type: ignore[misc]
                # On a fast machine it is done before it can be disturbed a second time.
                if program.poll() is not None:
                    break
                server.kill_for_a_while()
            said, _ = program.communicate(timeout=300)
    assert server.kills >= 1, "it ended before it could be disturbed"
    assert (program.returncode, said) == (0, "100000 of 100000 are right\n")


def test_a_server_that_stays_away_is_an_error_in_time(server: Server) -> None:
    endpoint = weft.Endpoint.from_admin(server.data_dir)
    server.kill()
    with weft.Client(endpoint=endpoint, retry=weft.Retry(deadline=0.5)) as client:
        with pytest.raises(weft.UnreachableError) as caught:
            client.health()
        assert caught.value.reason == "network-error"
        assert endpoint.server in str(caught.value)
        with pytest.raises(weft.UnreachableError):
            next(iter(client.events()))


def test_leaving_a_map_takes_no_time_when_the_server_is_away(server: Server) -> None:
    with server.client() as client:
        sleep = {"runtime": "process", "process": {"command": ["sleep", "600"]}}
        results = client.map({**sleep, "retry": {"attempts": 1}}, [{"args": ["true"]}, {}] * 9)
        assert next(results).ok
        server.kill()
        started = time.monotonic()
        results.close()
        assert time.monotonic() - started < 30


class LosesAnswers(httpx.BaseTransport):
    """Sends requests, and loses the first answer to each path that is given."""

    def __init__(self, inner: httpx.BaseTransport, *paths: str) -> None:
        self._inner = inner
        self._paths = list(paths)
        self.sent: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._inner.handle_request(request)
        path = request.url.path
        self.sent.append(path)
        if path in self._paths:
            self._paths.remove(path)
            response.read()
            response.close()
            raise httpx.ReadError("the answer is lost", request=request)
        return response


def test_what_was_done_without_an_answer_is_not_done_twice(idle: Server) -> None:
    work = {"runtime": "op", "op": {"op": "crc32c"}}
    with idle.client() as client:
        inner = client._http._transport
        client._http._transport = LosesAnswers(inner, "/v1/jobs")
        first = client.submit(work, tasks=[b""])
        client._http._transport = LosesAnswers(inner, "/v1/jobs")
        second = client.submit(work, tasks=iter([b""] * 1000))
        assert [job.id for job in client.jobs()] == [second.id, first.id]
        path = f"/v1/jobs/{first.id}"
        client._http._transport = LosesAnswers(inner, f"{path}/cancel")
        assert client.cancel(first).state == "cancelled"
        # These change something each time they are sent, and so are sent once.
        transport = LosesAnswers(inner, path, f"{path}/retry")
        client._http._transport = transport
        for unsafe in (client.retry, client.forget):
            with pytest.raises(weft.UnreachableError) as caught:
                unsafe(first)
            assert caught.value.was_sent
        assert transport.sent == [f"{path}/retry", path]


def test_several_threads_share_a_client_through_a_kill(server: Server) -> None:
    wrong: list[object] = []
    with server.client() as client:

        def work(seed: int) -> None:
            inputs = [bytes([seed, n % 256]) for n in range(2_000)]
            try:
                values = [result.value for result in client.map("crc32c", inputs, batch=200)]
            except weft.WeftError as error:
                wrong.append(error)
            else:
                wrong.extend(
                    data for data, value in zip(inputs, values) if value != oracle.crc32c(data)
                )

        threads = [threading.Thread(target=work, args=[seed]) for seed in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: any(True for _ in client.jobs()))
        server.kill_for_a_while()
        for thread in threads:
            thread.join()
    assert wrong == []
