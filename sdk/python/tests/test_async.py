"""The asynchronous client against a real server."""

from __future__ import annotations

import inspect
import random
from typing import TYPE_CHECKING

import anyio
import pytest

import oracle
import weft

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from pathlib import Path
    from typing import Callable

    from conftest import Server

STARS = {"runtime": "op", "op": {"op": "counteq", "imm": 42}}


def run(server: Server, main: Callable[[weft.AsyncClient], Awaitable[None]]) -> None:
    async def with_client() -> None:
        async with weft.AsyncClient.from_admin(server.data_dir) as client:
            await main(client)

    for backend in ("asyncio", "trio"):
        anyio.run(with_client, backend=backend)


def test_both_clients_have_the_same_methods() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(client).items()
            if callable(method) and not name.startswith("_")
        }

    assert methods(weft.Client) == methods(weft.AsyncClient)
    assert {"submit", "map", "gather", "result", "results", "events"} <= set(methods(weft.Client))


def test_jobs_are_submitted_waited_for_and_read(shared: Server) -> None:
    async def main(client: weft.AsyncClient) -> None:
        job = await client.submit(STARS, tasks=[b"*a*", b"", b"*"], wait=30)
        assert job.state == "succeeded"
        assert (await client.job(job.id)) == job
        assert (await client.wait(job)).is_final
        found = [result.value async for result in client.results(job, order="task")]
        assert found == [2, 0, 1]
        assert sorted([result.task async for result in client.results(job)]) == [0, 1, 2]
        assert (await client.result(job, 2)).value == 1
        streamed = await client.submit(STARS, tasks=(b"*" * n for n in range(50)))
        first, second = await client.gather(job, streamed.id, wait=30)
        assert len(first) == 3
        assert [result.value for result in second] == list(range(50))
        assert job.id in [listed.id async for listed in client.jobs()]
        assert [task.state async for task in client.tasks(job)] == ["completed"] * 3
        assert (await client.explain(job)).state == "succeeded"
        assert (await client.health()).status == "ok"
        assert len([node async for node in client.nodes()]) == 2
        await client.forget(job)
        with pytest.raises(weft.NotFoundError):
            await client.job(job)

    run(shared, main)


def test_map_gives_results_in_order_and_cancels_what_is_left(server: Server) -> None:
    async def main(client: weft.AsyncClient) -> None:
        inputs = [random.randbytes(random.randrange(50)) for _ in range(2_500)]
        values = [result.value async for result in client.map("crc32c", inputs, batch=100)]
        assert values == [oracle.crc32c(data) for data in inputs]
        sleep = {"runtime": "process", "process": {"command": ["sleep", "600"]}}

        all_sent = anyio.Event()

        def four() -> Iterator[dict[str, object]]:
            for _ in range(4):
                yield {}
            # Asked for more, once both jobs are known: only those can be cancelled.
            all_sent.set()

        async def consume() -> None:
            async for _ in client.map(sleep, four(), batch=2):
                pytest.fail("nobody sleeps as little as that")

        async def sleeping() -> list[weft.Job]:
            jobs = [job async for job in client.jobs()]
            return [job for job in jobs if job.runtime == "process" and not job.is_final]

        async def one_runs() -> bool:
            return any(job.state == "running" for job in await sleeping())

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            with anyio.fail_after(60):
                await all_sent.wait()
                while not await one_runs():  # noqa: ASYNC110 - it happens on the server
                    await anyio.sleep(0.01)
            left = await sleeping()
            group.cancel_scope.cancel()
        assert len(left) == 2
        for job in left:
            assert (await client.wait(job, 60)).state == "cancelled"

    run(server, main)


def test_refusals_and_failures_are_exceptions(shared: Server) -> None:
    async def main(client: weft.AsyncClient) -> None:
        with pytest.raises(weft.WeftError) as refused:
            await client.submit(STARS, priorty=1)
        assert refused.value.errors[0].path == "priorty"
        job = await client.submit(
            runtime="process", process={"command": ["false"]}, retry={"attempts": 1}
        )
        with pytest.raises(weft.TaskFailedError) as failed:
            await client.gather(job)
        assert failed.value.reason == "nonzero-exit"
        assert (await client.cancel(job)).state == "failed"

    run(shared, main)


def test_waiting_has_an_end(idle: Server) -> None:
    async def main(client: weft.AsyncClient) -> None:
        job = await client.submit(STARS, tasks=[b""])
        with pytest.raises(weft.WaitOverError):
            await client.wait(job, 0.1)
        with pytest.raises(weft.WaitOverError):
            await client.result(job, wait=0.1)
        assert [result async for result in client.results(job, wait=0.1)] == []
        assert (await client.cancel(job)).state == "cancelled"

    run(idle, main)


def test_events_and_artifacts(shared: Server, tmp_path: Path) -> None:
    async def main(client: weft.AsyncClient) -> None:
        known = [event async for event in client.events(follow=False)]
        job = await client.submit(STARS, tasks=[b"", b""], wait=30)
        async for event in client.events(known[-1].seq, type="job", subject=job.id):
            assert event.type == "weft.job.ended"
            break
        data = random.randbytes(1 << 20)
        (tmp_path / "in").write_bytes(data)
        artifact = await client.upload(tmp_path / "in")
        await client.download(artifact.blob, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data

    run(shared, main)
