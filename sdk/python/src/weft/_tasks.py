"""Inputs as tasks, and tasks as request bodies of bounded size."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Union

from ._model import Artifact

Input = Union[bytes, bytearray, memoryview, Artifact, Mapping[str, Any]]
"""The input of a task: bytes, an uploaded artifact, or the fields of the task."""

Work = Union[str, Mapping[str, Any]]
"""The name of a byte operation, a program of them, or a workload."""

BATCH_TASKS = 10_000
"""The most tasks that `map` sends in one job."""
BATCH_BYTES = 2 << 20
"""About the most bytes of tasks that `map` sends in one job."""
_CHUNK_BYTES = 256 << 10
_SPOOL_BYTES = 8 << 20


def dumps(value: object) -> bytes:
    """Write JSON without blanks."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def encode_task(value: Input) -> bytes:
    """Write the task of an input."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        # Base64 needs no escapes: this is what `dumps` would write, in a third of the time.
        return b'{"data":"' + base64.b64encode(value) + b'"}'
    if isinstance(value, Artifact):
        return dumps({"blob": value.blob})
    if isinstance(value, Mapping):
        return dumps(dict(value))
    raise TypeError(
        f"an input is bytes, an Artifact or the fields of a task, not {type(value).__name__}; "
        "encode text, upload files"
    )


def op(
    name: str,
    imm: int | None = None,
    *,
    offset: int | None = None,
    length: int | None = None,
) -> dict[str, Any]:
    """Make the program of one byte operation, as in ``op("counteq", 42)``."""
    fields = {"op": name, "imm": imm, "offset": offset, "length": length}
    return {key: value for key, value in fields.items() if value is not None}


def map_workload(work: Work, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Make the workload of some work and further fields."""
    if isinstance(work, str):
        work = {"runtime": "op", "op": op(work)}
    elif "runtime" not in work and ("op" in work or "ops" in work):
        work = {"runtime": "op", "op": work}
    made = {**work, **fields}
    for name in ("tasks", "inputs"):
        if name in made:
            raise ValueError(f"the work of a map has no `{name}`: they are its inputs")
    return made


def json_body(job: Mapping[str, Any], tasks: Iterable[bytes]) -> bytes:
    """Write a job with its tasks as one JSON body."""
    head = dumps({**job, "tasks": []})
    # The list is the last field.
    return head[:-2] + b",".join(tasks) + b"]}"


def batches(
    job: Mapping[str, Any], inputs: Iterable[Input], size: int = BATCH_TASKS
) -> Iterator[bytes]:
    """Write inputs as bodies of jobs. Only one of them is in memory at a time."""
    tasks: list[bytes] = []
    held = 0
    for value in inputs:
        task = encode_task(value)
        tasks.append(task)
        held += len(task)
        if len(tasks) >= size or held >= BATCH_BYTES:
            yield json_body(job, tasks)
            tasks, held = [], 0
    if tasks:
        yield json_body(job, tasks)


class TaskStream:
    """A job with any number of tasks as an NDJSON body that can be sent again.

    Inputs are asked for once: what was sent is kept, in memory while it is little and in a
    temporary file above that, until the server has acknowledged the job.
    """

    def __init__(self, job: Mapping[str, Any], inputs: Iterable[Input]) -> None:
        self._fresh = self._chunks_of(job, inputs)
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115
        self._size = 0
        self._broken: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        """Yield the whole body."""
        if self._broken is not None:
            # Inputs that broke off must never look like inputs that ended.
            raise self._broken
        sent = 0
        while sent < self._size:
            self._spool.seek(sent)
            known = self._spool.read(_CHUNK_BYTES)
            sent += len(known)
            yield known
        while (fresh := self._next()) is not None:
            yield fresh

    def _next(self) -> bytes | None:
        try:
            chunk = next(self._fresh, None)
        except BaseException as error:
            self._broken = error
            raise
        if chunk is not None:
            self._spool.seek(0, os.SEEK_END)
            self._spool.write(chunk)
            self._size += len(chunk)
        return chunk

    def close(self) -> None:
        """Let go of what was kept."""
        self._spool.close()

    @staticmethod
    def _chunks_of(job: Mapping[str, Any], inputs: Iterable[Input]) -> Iterator[bytes]:
        chunk = bytearray(dumps(dict(job)) + b"\n")
        for value in inputs:
            chunk += encode_task(value)
            chunk += b"\n"
            if len(chunk) >= _CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
        if chunk:
            yield bytes(chunk)
