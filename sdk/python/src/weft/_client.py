"""The synchronous client: carries calls and streams out, one after the other."""

from __future__ import annotations

import random
import time
from collections import deque
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import httpx
from typing_extensions import Self

from . import _artifacts as artifacts
from . import _calls as calls
from ._endpoint import Endpoint, StrPath, default_namespace, discover
from ._errors import NotFoundError, WaitOverError, WeftError
from ._retry import LEAVING, Attempts, Retry
from ._streams import EventStream, ResultStream, Stream
from ._tasks import BATCH_TASKS, Input, TaskStream, Work, batches, map_workload
from ._transport import Answer, Settings, clock, refused, request_of, unreachable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from types import TracebackType

    from ._calls import Call, JobRef, Page
    from ._model import Artifact, Event, Explanation, Health, Job, Node, Task, TaskResult

T = TypeVar("T")

AHEAD_JOBS = 4
"""How many jobs `map` submits ahead of the results that are asked for."""


class Client:
    """A client of one cluster; may be used by several threads.

    Without arguments the cluster is found as the command line finds it: `WEFT_SERVER`,
    `WEFT_CONTEXT`, the config file, a server of the default data directory.
    """

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
        self._http = httpx.Client(**Settings(endpoint, http2).arguments())

    @classmethod
    def from_admin(cls, path: StrPath, **options: Any) -> Client:
        """Use an ``admin.json``, or the one in a data directory."""
        return cls(endpoint=Endpoint.from_admin(path), **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Work goes on."""
        self._http.close()

    # Jobs.

    def submit(
        self,
        job: Mapping[str, Any] | None = None,
        *,
        tasks: Iterable[Input] | None = None,
        idempotency_key: str | None = None,
        wait: float = 0.0,
        **fields: Any,
    ) -> Job:
        """Submit a job; returns when it is on disk, or with `wait` once it is final.

        The job is a workload, given as a mapping, as keywords, or both. `tasks` are its inputs;
        those of an iterator, or very many, are streamed and never held as a whole. Submitting
        again under the same `idempotency_key` gives the same job; one is made up unless given.
        """
        workload = self._with_namespace({**(job or {}), **fields})
        call = calls.submit(workload, tasks, idempotency_key, min(wait, calls.POLL_S))
        try:
            submitted = self._run(call)
        finally:
            if isinstance(call.body, TaskStream):
                call.body.close()
        if wait <= calls.POLL_S or submitted.is_final:
            return submitted
        return self.job(submitted, wait=wait - calls.POLL_S)

    def map(
        self,
        work: Work,
        inputs: Iterable[Input],
        *,
        wait: float | None = None,
        raises: bool = True,
        batch: int = BATCH_TASKS,
        **fields: Any,
    ) -> Generator[TaskResult, None, None]:
        """Run some work over inputs; yields their results in the order of the inputs.

        Inputs are sent as jobs of up to `batch` tasks, a few ahead of the results that are asked
        for, so that neither inputs nor results are ever held as a whole. A task that does not
        complete raises `TaskFailedError`, or with `raises=False` is yielded like the others.
        Jobs that have not ended when the iterator is left are cancelled.
        """
        job = self._with_namespace(map_workload(work, fields))
        until = None if wait is None else clock() + wait
        return self._map(batches(job, inputs, batch), until, raises=raises)

    def _map(
        self, bodies: Iterator[bytes], until: float | None, *, raises: bool
    ) -> Generator[TaskResult, None, None]:
        ahead: deque[Job] = deque()
        try:
            for body in bodies:
                call = calls.submit_body(body, ndjson=False, key=None, wait=0.0)
                ahead.append(self._run(call))
                if len(ahead) > AHEAD_JOBS:
                    yield from self._all_results(ahead[0], until, raises=raises)
                    ahead.popleft()
            while ahead:
                yield from self._all_results(ahead[0], until, raises=raises)
                ahead.popleft()
        finally:
            # A server that is away must not hold up those who leave.
            with suppress(WeftError):
                for job in ahead:
                    self._run(calls.cancel(job), LEAVING)

    def job(self, job: JobRef, wait: float = 0.0) -> Job:
        """Return a job; with `wait`, once it is final or that many seconds are over."""
        until = clock() + wait
        while True:
            found = self._run(calls.job(job, min(calls.POLL_S, max(0.0, until - clock()))))
            if found.is_final or clock() >= until:
                return found

    def jobs(self) -> Generator[Job, None, None]:
        """Yield all jobs, newest first."""
        return self._pages(calls.jobs)

    def tasks(self, job: JobRef, state: str | None = None) -> Generator[Task, None, None]:
        """Yield the tasks of a job, of one state if given."""
        return self._pages(lambda cursor: calls.tasks(job, state, cursor))

    def wait(self, job: JobRef, wait: float | None = None) -> Job:
        """Wait until a job is final; raises `WaitOverError` when that takes longer than `wait`."""
        until = None if wait is None else clock() + wait
        while True:
            left = calls.POLL_S if until is None else max(0.0, until - clock())
            found = self.job(job, min(calls.POLL_S, left))
            if found.is_final:
                return found
            if until is not None and clock() >= until:
                raise WaitOverError(f"{found.id} has not ended", job=found.id)

    def results(
        self, job: JobRef, *, order: str = "finish", wait: float | None = None
    ) -> Generator[TaskResult, None, None]:
        """Yield the results of a job, each once, as its tasks end or in their order (``task``).

        Ends when all tasks have ended or `wait` seconds are over. A broken connection is made
        again and the stream goes on where it was.
        """
        in_order = calls.is_in_order(order)
        until = None if wait is None else clock() + wait
        return self._results(job, in_order=in_order, until=until)

    def _results(
        self, job: JobRef, *, in_order: bool, until: float | None
    ) -> Generator[TaskResult, None, None]:
        found = self._run(calls.job(job))
        yield from self._follow(
            ResultStream(found.id, found.tasks.total, in_order=in_order, until=until)
        )

    def result(self, job: JobRef, task: int = 0, *, wait: float | None = None) -> TaskResult:
        """Wait for the result of one task; raises `TaskFailedError` when it did not complete."""
        until = None if wait is None else clock() + wait
        found = self._run(calls.job(job))
        total = calls.total_with(found, task)
        stream = ResultStream(found.id, total, in_order=True, until=until, first=task)
        with closing(self._follow(stream)) as results:
            for result in results:
                return calls.checked(result, raises=True)
        raise WaitOverError(f"task {task} of {found.id} has not ended", job=found.id)

    def gather(
        self, *jobs: JobRef, wait: float | None = None, raises: bool = True
    ) -> list[list[TaskResult]]:
        """Wait for the results of several jobs, each in the order of its tasks."""
        until = None if wait is None else clock() + wait
        return [list(self._all_results(job, until, raises=raises)) for job in jobs]

    def _all_results(
        self, job: JobRef, until: float | None, *, raises: bool
    ) -> Generator[TaskResult, None, None]:
        found = self._run(calls.job(job)) if isinstance(job, str) else job
        stream = ResultStream(found.id, found.tasks.total, in_order=True, until=until)
        for result in self._follow(stream):
            yield calls.checked(result, raises=raises)
        if not stream.is_complete:
            raise WaitOverError(f"{found.id} has not ended", job=found.id)

    def cancel(self, job: JobRef) -> Job:
        """Cancel a job; one that has ended stays as it is."""
        return self._run(calls.cancel(job))

    def forget(self, job: JobRef) -> None:
        """Forget a job that has ended, with its results; cancels one that has not."""
        self._run(calls.forget(job))

    def retry(self, job: JobRef) -> Job:
        """Queue the failed and dead tasks of a job again."""
        return self._run(calls.retry(job))

    def explain(self, job: JobRef) -> Explanation:
        """Say why a job is where it is, or nowhere."""
        return self._run(calls.explain(job))

    # The cluster.

    def health(self) -> Health:
        """Return whether the server lives."""
        return self._run(calls.health())

    def nodes(self) -> Generator[Node, None, None]:
        """Yield all nodes."""
        return self._pages(calls.nodes)

    def events(
        self,
        since: int = 0,
        *,
        follow: bool = True,
        type: str | None = None,  # noqa: A002 - the name of the contract
        subject: str | None = None,
    ) -> Generator[Event, None, None]:
        """Yield the events after `since`; with `follow` as they happen, without an end.

        `type` is the beginning of a type, as in ``node``. A broken connection is made again.
        """
        return self._follow(EventStream(since, follow=follow, kind=type, subject=subject))

    # Artifacts.

    def upload(self, source: artifacts.Source) -> Artifact:
        """Upload bytes or a file as an artifact, unless the server has it.

        Needs the package ``blake3`` (``pip install 'weft[blobs]'``).
        """
        content = artifacts.Content(source)
        with suppress(NotFoundError):
            self._run(calls.has_blob(content.blob))
            return content.artifact
        return self._run(calls.put_blob(content))

    def download(self, blob: str, path: StrPath) -> None:
        """Download an artifact into a file, which is there only when it is whole."""

        def fetch() -> None:
            with artifacts.Download(path) as file, self._open(calls.get_blob(blob)) as response:
                for chunk in response.iter_bytes():
                    file.write(chunk)

        self._attempt(fetch, safe=True)

    # How calls are carried out.

    def _with_namespace(self, job: dict[str, Any]) -> dict[str, Any]:
        return {"namespace": self._namespace, **job} if self._namespace else job

    def _pages(self, page: Callable[[str | None], Call[Page[T]]]) -> Generator[T, None, None]:
        cursor = None
        while True:
            found = self._run(page(cursor))
            yield from found.items
            cursor = found.next
            if cursor is None:
                return

    def _run(self, call: Call[T], retry: Retry | None = None) -> T:
        def send() -> T:
            with self._open(call) as response:
                answer = Answer()
                for chunk in response.iter_bytes():
                    answer.add(chunk)
            return call.read(answer.body)

        return self._attempt(send, retry, safe=call.safe)

    def _attempt(self, send: Callable[[], T], retry: Retry | None = None, *, safe: bool) -> T:
        attempts = Attempts(retry or self._retry)
        while True:
            try:
                return send()
            except WeftError as error:
                delay = attempts.delay(error, safe=safe, now=clock(), random=random.random)
            time.sleep(delay)

    def _follow(self, stream: Stream[T]) -> Generator[T, None, None]:
        attempts = Attempts(self._retry)
        while (call := stream.call(clock())) is not None:
            try:
                with self._open(call) as response:
                    for chunk in response.iter_bytes():
                        if items := stream.feed(chunk):
                            attempts.progress()
                            yield from items
                stream.ended(clock())
                attempts.progress()
            except WeftError as error:
                time.sleep(attempts.delay(error, safe=True, now=clock(), random=random.random))

    @contextmanager
    def _open(self, call: Call[Any]) -> Iterator[httpx.Response]:
        try:
            with self._http.stream(**request_of(call, call.body)) as response:
                if not response.is_success:
                    answer = Answer()
                    for chunk in response.iter_bytes():
                        answer.add(chunk)
                    raise refused(response, answer.body)
                yield response
        except httpx.HTTPError as error:
            raise unreachable(error, self._server) from error
