"""The asynchronous client: the same calls and streams as the synchronous one.

What a method does is said at the method of the same name of `Client`.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import anyio
import anyio.to_thread
import httpx
from typing_extensions import Self

from . import _artifacts as artifacts
from . import _calls as calls
from ._client import AHEAD_JOBS
from ._endpoint import Endpoint, StrPath, default_namespace, discover
from ._errors import NotFoundError, WaitOverError, WeftError
from ._retry import LEAVING, Attempts, Retry
from ._streams import EventStream, ResultStream, Stream
from ._tasks import BATCH_TASKS, Input, TaskStream, Work, batches, map_workload
from ._transport import Answer, Settings, clock, refused, request_of, unreachable

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Iterable,
        Iterator,
        Mapping,
    )
    from types import TracebackType

    from ._calls import Call, JobRef, Page
    from ._model import Artifact, Event, Explanation, Health, Job, Node, Task, TaskResult

T = TypeVar("T")


class AsyncClient:
    """A client of one cluster for asyncio and Trio; found as `Client` finds it."""

    def __init__(
        self,
        server: str | None = None,
        token: str | None = None,
        ca: StrPath | None = None,
        *,
        context: str | None = None,
        namespace: str | None = None,
        retry: Retry | None = None,
        http2: bool = False,
        endpoint: Endpoint | None = None,
    ) -> None:
        endpoint = endpoint or discover(server=server, token=token, ca=ca, context=context)
        self._server = endpoint.base_url
        self._namespace = default_namespace(namespace)
        self._retry = retry or Retry()
        self._http = httpx.AsyncClient(**Settings(endpoint, http2).arguments())

    @classmethod
    def from_admin(cls, path: StrPath, **options: Any) -> AsyncClient:
        """Use an ``admin.json``, or the one in a data directory."""
        return cls(endpoint=Endpoint.from_admin(path), **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Work goes on."""
        await self._http.aclose()

    # Jobs.

    async def submit(
        self,
        job: Mapping[str, Any] | None = None,
        *,
        tasks: Iterable[Input] | None = None,
        idempotency_key: str | None = None,
        wait: float = 0.0,
        **fields: Any,
    ) -> Job:
        """Submit a job."""
        workload = self._with_namespace({**(job or {}), **fields})
        call = calls.submit(workload, tasks, idempotency_key, min(wait, calls.POLL_S))
        try:
            submitted = await self._run(call)
        finally:
            if isinstance(call.body, TaskStream):
                call.body.close()
        if wait <= calls.POLL_S or submitted.is_final:
            return submitted
        return await self.job(submitted, wait=wait - calls.POLL_S)

    def map(
        self,
        work: Work,
        inputs: Iterable[Input],
        *,
        wait: float | None = None,
        raises: bool = True,
        batch: int = BATCH_TASKS,
        **fields: Any,
    ) -> AsyncGenerator[TaskResult, None]:
        """Run some work over inputs; yields their results in the order of the inputs."""
        job = self._with_namespace(map_workload(work, fields))
        until = None if wait is None else clock() + wait
        return self._map(batches(job, inputs, batch), until, raises=raises)

    async def _map(
        self, bodies: Iterator[bytes], until: float | None, *, raises: bool
    ) -> AsyncGenerator[TaskResult, None]:
        ahead: deque[Job] = deque()
        try:
            for body in bodies:
                call = calls.submit_body(body, ndjson=False, key=None, wait=0.0)
                ahead.append(await self._run(call))
                if len(ahead) > AHEAD_JOBS:
                    async with _closing(self._all_results(ahead[0], until, raises=raises)) as some:
                        async for result in some:
                            yield result
                    ahead.popleft()
            while ahead:
                async with _closing(self._all_results(ahead[0], until, raises=raises)) as some:
                    async for result in some:
                        yield result
                ahead.popleft()
        finally:
            # A cancelled scope must not keep the jobs from being cancelled, nor a server that is
            # away hold up those who leave.
            with anyio.CancelScope(shield=True), suppress(WeftError):
                for job in ahead:
                    await self._run(calls.cancel(job), LEAVING)

    async def job(self, job: JobRef, wait: float = 0.0) -> Job:
        """Return a job; with `wait`, once it is final or that many seconds are over."""
        until = clock() + wait
        while True:
            left = max(0.0, until - clock())
            found = await self._run(calls.job(job, min(calls.POLL_S, left)))
            if found.is_final or clock() >= until:
                return found

    def jobs(self) -> AsyncGenerator[Job, None]:
        """Yield all jobs, newest first."""
        return self._pages(calls.jobs)

    def tasks(self, job: JobRef, state: str | None = None) -> AsyncGenerator[Task, None]:
        """Yield the tasks of a job, of one state if given."""
        return self._pages(lambda cursor: calls.tasks(job, state, cursor))

    async def wait(self, job: JobRef, wait: float | None = None) -> Job:
        """Wait until a job is final."""
        until = None if wait is None else clock() + wait
        while True:
            left = calls.POLL_S if until is None else max(0.0, until - clock())
            found = await self.job(job, min(calls.POLL_S, left))
            if found.is_final:
                return found
            if until is not None and clock() >= until:
                raise WaitOverError(f"{found.id} has not ended", job=found.id)

    def results(
        self, job: JobRef, *, order: str = "finish", wait: float | None = None
    ) -> AsyncGenerator[TaskResult, None]:
        """Yield the results of a job, each once, as its tasks end or in their order."""
        in_order = calls.is_in_order(order)
        until = None if wait is None else clock() + wait
        return self._results(job, in_order=in_order, until=until)

    async def _results(
        self, job: JobRef, *, in_order: bool, until: float | None
    ) -> AsyncGenerator[TaskResult, None]:
        found = await self._run(calls.job(job))
        total = found.tasks.total
        stream = ResultStream(found.id, total, in_order=in_order, until=until)
        async with _closing(self._follow(stream)) as results:
            async for result in results:
                yield result

    async def result(self, job: JobRef, task: int = 0, *, wait: float | None = None) -> TaskResult:
        """Wait for the result of one task."""
        until = None if wait is None else clock() + wait
        found = await self._run(calls.job(job))
        total = calls.total_with(found, task)
        stream = ResultStream(found.id, total, in_order=True, until=until, first=task)
        async with _closing(self._follow(stream)) as results:
            async for result in results:
                return calls.checked(result, raises=True)
        raise WaitOverError(f"task {task} of {found.id} has not ended", job=found.id)

    async def gather(
        self, *jobs: JobRef, wait: float | None = None, raises: bool = True
    ) -> list[list[TaskResult]]:
        """Wait for the results of several jobs, each in the order of its tasks."""
        until = None if wait is None else clock() + wait
        gathered = []
        for job in jobs:
            results = self._all_results(job, until, raises=raises)
            gathered.append([result async for result in results])
        return gathered

    async def _all_results(
        self, job: JobRef, until: float | None, *, raises: bool
    ) -> AsyncGenerator[TaskResult, None]:
        found = await self._run(calls.job(job)) if isinstance(job, str) else job
        stream = ResultStream(found.id, found.tasks.total, in_order=True, until=until)
        async with _closing(self._follow(stream)) as results:
            async for result in results:
                yield calls.checked(result, raises=raises)
        if not stream.is_complete:
            raise WaitOverError(f"{found.id} has not ended", job=found.id)

    async def cancel(self, job: JobRef) -> Job:
        """Cancel a job; one that has ended stays as it is."""
        return await self._run(calls.cancel(job))

    async def forget(self, job: JobRef) -> None:
        """Forget a job that has ended, with its results; cancels one that has not."""
        await self._run(calls.forget(job))

    async def retry(self, job: JobRef) -> Job:
        """Queue the failed and dead tasks of a job again."""
        return await self._run(calls.retry(job))

    async def explain(self, job: JobRef) -> Explanation:
        """Say why a job is where it is, or nowhere."""
        return await self._run(calls.explain(job))

    # The cluster.

    async def health(self) -> Health:
        """Return whether the server lives."""
        return await self._run(calls.health())

    def nodes(self) -> AsyncGenerator[Node, None]:
        """Yield all nodes."""
        return self._pages(calls.nodes)

    def events(
        self,
        since: int = 0,
        *,
        follow: bool = True,
        type: str | None = None,  # noqa: A002 - the name of the contract
        subject: str | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Yield the events after `since`; with `follow` as they happen, without an end."""
        return self._follow(EventStream(since, follow=follow, kind=type, subject=subject))

    # Artifacts.

    async def upload(self, source: artifacts.Source) -> Artifact:
        """Upload bytes or a file as an artifact, unless the server has it."""
        content = await anyio.to_thread.run_sync(artifacts.Content, source)
        with suppress(NotFoundError):
            await self._run(calls.has_blob(content.blob))
            return content.artifact
        return await self._run(calls.put_blob(content))

    async def download(self, blob: str, path: StrPath) -> None:
        """Download an artifact into a file, which is there only when it is whole."""

        async def fetch() -> None:
            with artifacts.Download(path) as file:
                async with self._open(calls.get_blob(blob)) as response:
                    async for chunk in response.aiter_bytes():
                        file.write(chunk)

        await self._attempt(fetch, safe=True)

    # How calls are carried out.

    def _with_namespace(self, job: dict[str, Any]) -> dict[str, Any]:
        return {"namespace": self._namespace, **job} if self._namespace else job

    async def _pages(self, page: Callable[[str | None], Call[Page[T]]]) -> AsyncGenerator[T, None]:
        cursor = None
        while True:
            found = await self._run(page(cursor))
            for item in found.items:
                yield item
            cursor = found.next
            if cursor is None:
                return

    async def _run(self, call: Call[T], retry: Retry | None = None) -> T:
        async def send() -> T:
            async with self._open(call) as response:
                answer = Answer()
                async for chunk in response.aiter_bytes():
                    answer.add(chunk)
            return call.read(answer.body)

        return await self._attempt(send, retry, safe=call.safe)

    async def _attempt(
        self, send: Callable[[], Awaitable[T]], retry: Retry | None = None, *, safe: bool
    ) -> T:
        attempts = Attempts(retry or self._retry)
        while True:
            try:
                return await send()
            except WeftError as error:
                delay = attempts.delay(error, safe=safe, now=clock(), random=random.random)
            await anyio.sleep(delay)

    async def _follow(self, stream: Stream[T]) -> AsyncGenerator[T, None]:
        attempts = Attempts(self._retry)
        while (call := stream.call(clock())) is not None:
            try:
                async with self._open(call) as response:
                    async for chunk in response.aiter_bytes():
                        if items := stream.feed(chunk):
                            attempts.progress()
                            for item in items:
                                yield item
                stream.ended(clock())
                attempts.progress()
            except WeftError as error:
                delay = attempts.delay(error, safe=True, now=clock(), random=random.random)
                await anyio.sleep(delay)

    @asynccontextmanager
    async def _open(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        try:
            async with self._http.stream(**request_of(call, _body(call.body))) as response:
                if not response.is_success:
                    answer = Answer()
                    async for chunk in response.aiter_bytes():
                        answer.add(chunk)
                    raise refused(response, answer.body)
                yield response
        except httpx.HTTPError as error:
            raise unreachable(error, self._server) from error


@asynccontextmanager
async def _closing(stream: AsyncGenerator[T, None]) -> AsyncIterator[AsyncGenerator[T, None]]:
    """Close a stream with its connection, also when it is left early."""
    try:
        yield stream
    finally:
        await stream.aclose()


def _body(body: calls.Body) -> Any:
    if body is None or isinstance(body, bytes):
        return body

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in body:
            yield chunk

    return chunks()
