"""The calls of the API as values: what is sent, and how the answer is read.

Nothing here sends anything. The clients differ only in how they carry calls out.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar, Union
from urllib.parse import quote

from ._errors import NotFoundError, TaskFailedError
from ._fields import Fields
from ._model import Artifact, Explanation, Health, Job, Node, Task, TaskResult
from ._tasks import Input, TaskStream, dumps, encode_task, json_body

if TYPE_CHECKING:
    from ._artifacts import Content

T = TypeVar("T")

JobRef = Union[str, Job]
"""A job, or its id."""

Body = Union[bytes, Iterable[bytes], None]

PAGE_ENTRIES = 1_000
INLINE_TASKS = 10_000
"""Lists of more tasks than this are streamed."""
INLINE_BYTES = 8 << 20
"""Lists of larger tasks than this together are streamed."""
POLL_S = 20.0
"""How long the server may hold one request that waits; longer waits are several requests."""
_JSON = {"content-type": "application/json"}
_NDJSON = {"content-type": "application/x-ndjson"}


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request and the reader of its answer."""

    method: str
    path: str
    read: Callable[[bytes], T]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = None
    """Bytes, or an iterable of them that may be iterated over again."""
    safe: bool = True
    """Whether it may be sent again when it is not known what became of it."""
    patience: float = 0.0
    """How long the server may take on purpose, in seconds."""


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some entries of a list."""

    items: Sequence[T]
    next: str | None
    """The cursor of the next page."""


def job_id(job: JobRef) -> str:
    """Return the id of a job."""
    return job.id if isinstance(job, Job) else job


def is_in_order(order: str) -> bool:
    """Whether results are wanted by number rather than as they end."""
    if order not in {"finish", "task"}:
        raise ValueError(f"{order!r} is neither finish nor task")
    return order == "task"


def total_with(job: Job, task: int) -> int:
    """Return how many tasks a job has; raise when the task is none of them."""
    if not 0 <= task < job.tasks.total:
        raise NotFoundError(f"{job.id} has no task {task}", reason="invalid-spec")
    return job.tasks.total


def checked(result: TaskResult, *, raises: bool) -> TaskResult:
    """Pass a result on; raise when it is a failure and these are to be raised."""
    if raises and not result.ok:
        raise TaskFailedError(result)
    return result


def _reader(what: str, read: Callable[[Fields], T]) -> Callable[[bytes], T]:
    return lambda body: read(Fields.parse(body, what))


def _page_reader(what: str, read: Callable[[Fields], T]) -> Callable[[bytes], Page[T]]:
    def page(body: bytes) -> Page[T]:
        fields = Fields.parse(body, what)
        return Page(fields.each("items", read), fields.text_or_none("next"))

    return page


def _nothing(_: bytes) -> None:
    return None


def _path(*segments: str) -> str:
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def wait_param(seconds: float) -> str:
    """Write a span of time as the server reads it."""
    return f"{max(0, round(seconds * 1000))}ms"


def _query(**params: object | None) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value is not None}


def health() -> Call[Health]:
    """``GET /health``."""
    return Call("GET", "/health", _reader("health", Health.read))


def submit_body(body: Body, *, ndjson: bool, key: str | None, wait: float) -> Call[Job]:
    """``POST /v1/jobs``; always with an idempotency key, so that it may be sent again."""
    headers = {**(_NDJSON if ndjson else _JSON), "idempotency-key": key or uuid.uuid4().hex}
    params = _query(wait=wait_param(wait) if wait else None)
    return Call("POST", "/v1/jobs", _reader("job", Job.read), params, headers, body, patience=wait)


def submit(
    job: Mapping[str, Any], tasks: Iterable[Input] | None, key: str | None, wait: float
) -> Call[Job]:
    """``POST /v1/jobs``: many tasks, and those of an iterator, as a stream."""
    if tasks is None:
        return submit_body(dumps(dict(job)), ndjson=False, key=key, wait=wait)
    if isinstance(tasks, Sequence):
        if not tasks:
            raise ValueError("there are no tasks; leave `tasks` out for a job of one")
        if len(tasks) <= INLINE_TASKS:
            encoded = [encode_task(task) for task in tasks]
            if sum(map(len, encoded)) <= INLINE_BYTES:
                body = json_body(job, encoded)
                return submit_body(body, ndjson=False, key=key, wait=wait)
    return submit_body(TaskStream(job, tasks), ndjson=True, key=key, wait=wait)


def job(ref: JobRef, wait: float = 0.0) -> Call[Job]:
    """``GET /v1/jobs/{id}``."""
    params = _query(wait=wait_param(wait) if wait else None)
    path = _path("v1", "jobs", job_id(ref))
    return Call("GET", path, _reader("job", Job.read), params, patience=wait)


def jobs(cursor: str | None) -> Call[Page[Job]]:
    """``GET /v1/jobs``."""
    params = _query(limit=PAGE_ENTRIES, cursor=cursor)
    return Call("GET", "/v1/jobs", _page_reader("jobs", Job.read), params)


def tasks(ref: JobRef, state: str | None, cursor: str | None) -> Call[Page[Task]]:
    """``GET /v1/jobs/{id}/tasks``."""
    params = _query(limit=PAGE_ENTRIES, cursor=cursor, state=state)
    path = _path("v1", "jobs", job_id(ref), "tasks")
    return Call("GET", path, _page_reader("tasks", Task.read), params)


def cancel(ref: JobRef) -> Call[Job]:
    """``POST /v1/jobs/{id}/cancel``."""
    path = _path("v1", "jobs", job_id(ref), "cancel")
    return Call("POST", path, _reader("job", Job.read))


def forget(ref: JobRef) -> Call[None]:
    """``DELETE /v1/jobs/{id}``; not safe, since the second one finds nothing."""
    return Call("DELETE", _path("v1", "jobs", job_id(ref)), _nothing, safe=False)


def retry(ref: JobRef) -> Call[Job]:
    """``POST /v1/jobs/{id}/retry``; not safe, since the second one may queue more tasks."""
    path = _path("v1", "jobs", job_id(ref), "retry")
    return Call("POST", path, _reader("job", Job.read), safe=False)


def explain(ref: JobRef) -> Call[Explanation]:
    """``GET /v1/jobs/{id}/explain``."""
    path = _path("v1", "jobs", job_id(ref), "explain")
    return Call("GET", path, _reader("explanation", Explanation.read))


def nodes(cursor: str | None) -> Call[Page[Node]]:
    """``GET /v1/nodes``."""
    params = _query(limit=PAGE_ENTRIES, cursor=cursor)
    return Call("GET", "/v1/nodes", _page_reader("nodes", Node.read), params)


def has_blob(blob: str) -> Call[None]:
    """``HEAD /v1/blobs/{hash}``."""
    return Call("HEAD", _path("v1", "blobs", blob), _nothing)


def put_blob(content: Content) -> Call[Artifact]:
    """``PUT /v1/blobs/{hash}``."""
    headers = {"content-type": "application/octet-stream", "content-length": str(content.size)}
    read = _reader("artifact", Artifact.read)
    return Call("PUT", _path("v1", "blobs", content.blob), read, {}, headers, content)


def get_blob(blob: str) -> Call[None]:
    """``GET /v1/blobs/{hash}``; the body is a stream."""
    return Call("GET", _path("v1", "blobs", blob), _nothing)


def results(job: str, order: str, first: int, wait: float) -> Call[None]:
    """``GET /v1/jobs/{id}/results``; the body is a stream."""
    params = {"order": order, "from": str(first), "wait": wait_param(wait)}
    return Call("GET", _path("v1", "jobs", job, "results"), _nothing, params, patience=wait)


def events(since: int, *, follow: bool, kind: str | None, subject: str | None) -> Call[None]:
    """``GET /v1/events``; the body is a stream of server-sent events."""
    params = _query(since=since, follow=str(follow).lower(), type=kind, subject=subject)
    headers = {"accept": "text/event-stream"}
    return Call("GET", "/v1/events", _nothing, params, headers)
