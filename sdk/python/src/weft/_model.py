"""What the API shows: jobs, tasks, results, nodes, events and reasons.

Names are those of the REST interface, except that ``class`` is ``class_`` in Python.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._errors import GarbledError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ._fields import Fields

FINAL_JOB_STATES = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class Why:
    """Why something waits or failed."""

    reason: str
    """One of the failure reasons, as in ``node-lost``."""
    class_: str
    """Who can do something about it: user, node, platform, provider or budget."""
    detail: str
    """What happened, in a sentence."""
    next: str | None
    """One suggested command or change."""

    @classmethod
    def read(cls, fields: Fields) -> Why | None:
        """Read it from the fields of what it explains; ``None`` when there is nothing to say."""
        if not fields.has("reason"):
            return None
        return cls(
            reason=fields.text("reason"),
            class_=fields.text("class"),
            detail=fields.text("detail"),
            next=fields.text_or_none("next"),
        )


@dataclass(frozen=True)
class TaskCounts:
    """How many tasks of a job are in which state."""

    total: int
    queued: int
    assigned: int
    running: int
    completed: int
    failed: int
    cancelled: int
    dead: int

    @property
    def finished(self) -> int:
        """How many are final."""
        return self.completed + self.failed + self.cancelled + self.dead

    @classmethod
    def read(cls, fields: Fields) -> TaskCounts:
        """Read it."""
        return cls(**{name: fields.number(name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Job:
    """A job as it was when the server was asked."""

    id: str
    name: str
    namespace: str
    runtime: str
    state: str
    """``queued``, ``running``, ``succeeded``, ``failed`` or ``cancelled``."""
    tasks: TaskCounts
    priority: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    why: Why | None
    """Why it waits or failed."""

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more."""
        return self.state in FINAL_JOB_STATES

    @classmethod
    def read(cls, fields: Fields) -> Job:
        """Read it."""
        return cls(
            id=fields.text("id"),
            name=fields.text("name"),
            namespace=fields.text("namespace"),
            runtime=fields.text("runtime"),
            state=fields.text("state"),
            tasks=TaskCounts.read(fields.inner("tasks")),
            priority=fields.number("priority"),
            created_at=fields.time("created_at"),
            started_at=fields.time_or_none("started_at"),
            finished_at=fields.time_or_none("finished_at"),
            why=Why.read(fields),
        )


@dataclass(frozen=True)
class Task:
    """A task of a job, without what it left behind."""

    task: int
    """Its number in the job, from 0."""
    state: str
    attempts: int
    """How many times it was handed to a node."""
    node: str | None
    why: Why | None

    @classmethod
    def read(cls, fields: Fields) -> Task:
        """Read it."""
        return cls(
            task=fields.number("task"),
            state=fields.text("state"),
            attempts=fields.number("attempts"),
            node=fields.text_or_none("node"),
            why=Why.read(fields),
        )


@dataclass(frozen=True)
class Output:
    """What a program printed: its bytes, or the artifact that has them when they are many."""

    data: bytes | None
    blob: str | None
    truncated: bool
    """Whether more was printed than is kept."""

    @classmethod
    def read(cls, fields: Fields, name: str) -> Output | None:
        """Read it; ``None`` when the runtime has no such stream."""
        text, blob = fields.text_or_none(name), fields.text_or_none(f"{name}_blob")
        if text is None and blob is None:
            return None
        data = None if text is None else text.encode()
        if text is not None and fields.has(f"{name}_encoding"):
            try:
                data = base64.b64decode(text, validate=True)
            except binascii.Error as error:
                raise GarbledError(f"the server's answer is not base64: {name}") from error
        return cls(data=data, blob=blob, truncated=fields.flag(f"{name}_truncated"))


@dataclass(frozen=True)
class OutputFile:
    """A file that a task wrote to ``$WEFT_OUT``."""

    path: str
    blob: str
    size: int

    @classmethod
    def read(cls, fields: Fields) -> OutputFile:
        """Read it."""
        return cls(fields.text("path"), fields.text("blob"), fields.number("size"))


_FIGURES = ("count", "checksum", "hash", "result")


@dataclass(frozen=True)
class TaskResult:
    """What a task left behind."""

    job: str
    """The job it belongs to."""
    task: int
    """Its number in the job, from 0."""
    state: str
    """``completed``, ``failed``, ``cancelled`` or ``dead``."""
    result: Mapping[str, Any] | None
    """What a byte operation found."""
    exit_code: int | None
    signal: int | None
    stdout: Output | None
    stderr: Output | None
    files: tuple[OutputFile, ...]
    file: str | None
    """The name of its input file."""
    why: Why | None
    node: str | None
    attempts: int
    run_us: int
    """Microseconds from start to end of the last attempt."""
    peak_memory_bytes: int | None

    @property
    def ok(self) -> bool:
        """Whether it completed."""
        return self.state == "completed"

    @property
    def value(self) -> Any:
        """The figure of a byte operation (a list for a program of several), or the output.

        ``None`` for a task that did not complete.
        """
        if not self.ok:
            return None
        if self.result is not None:
            several = self.result.get("results")
            if isinstance(several, list):
                return [_figure(result) for result in several]
            return _figure(self.result)
        return None if self.stdout is None else self.stdout.data

    @classmethod
    def read(cls, fields: Fields, job: str) -> TaskResult:
        """Read it."""
        return cls(
            job=job,
            task=fields.number("task"),
            state=fields.text("state"),
            result=fields.mapping("result") if fields.has("result") else None,
            exit_code=fields.number_or_none("exit_code"),
            signal=fields.number_or_none("signal"),
            stdout=Output.read(fields, "stdout"),
            stderr=Output.read(fields, "stderr"),
            files=fields.each("files", OutputFile.read),
            file=fields.text_or_none("file"),
            why=Why.read(fields),
            node=fields.text_or_none("node"),
            attempts=fields.number("attempts"),
            run_us=fields.number_or_none("run_us") or 0,
            peak_memory_bytes=fields.number_or_none("peak_memory_bytes"),
        )


def _figure(result: Mapping[str, Any]) -> Any:
    return next((result[name] for name in _FIGURES if name in result), None)


@dataclass(frozen=True)
class Capacity:
    """What a node offers; quantities as Kubernetes writes them."""

    cpu: str
    memory: str
    disk: str
    gpus: tuple[str, ...]
    arch: str
    os: str
    runtimes: tuple[str, ...]
    labels: Mapping[str, str]
    capabilities: tuple[str, ...]
    price_per_hour: str | None
    """What an hour of all of it costs, as in ``$0.12``; none where that is nothing."""

    @classmethod
    def read(cls, fields: Fields) -> Capacity:
        """Read it."""
        return cls(
            cpu=fields.text("cpu"),
            memory=fields.text("memory"),
            disk=fields.text("disk"),
            gpus=fields.texts("gpus"),
            arch=fields.text("arch"),
            os=fields.text("os"),
            runtimes=fields.texts("runtimes"),
            labels=fields.mapping("labels"),
            capabilities=fields.texts("capabilities"),
            price_per_hour=fields.text_or_none("price_per_hour"),
        )


@dataclass(frozen=True)
class Usage:
    """What of a node is in use, as measured there."""

    running: int
    held: int
    cpu_millicores: int
    memory_bytes: int
    free_disk_bytes: int

    @classmethod
    def read(cls, fields: Fields) -> Usage:
        """Read it."""
        return cls(**{name: fields.number(name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Node:
    """A machine that runs the agent."""

    id: str
    state: str
    """``healthy``, ``suspect``, ``offline``, ``cordoned`` or ``draining``."""
    detail: str | None
    hostname: str
    version: str
    capacity: Capacity
    usage: Usage
    joined_at: datetime
    last_seen_at: datetime | None
    missing: tuple[str, ...]
    """What was probed there and does not work."""

    @classmethod
    def read(cls, fields: Fields) -> Node:
        """Read it."""
        return cls(
            id=fields.text("id"),
            state=fields.text("state"),
            detail=fields.text_or_none("detail"),
            hostname=fields.text("hostname"),
            version=fields.text("version"),
            capacity=Capacity.read(fields.inner("capacity")),
            usage=Usage.read(fields.inner("usage")),
            joined_at=fields.time("joined_at"),
            last_seen_at=fields.time_or_none("last_seen_at"),
            missing=fields.texts("missing"),
        )


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    seq: int
    """Pass it as ``since`` to go on after it."""
    type: str
    """As in ``weft.node.offline``."""
    subject: str
    """What it is about: an id."""
    time: datetime
    source: str
    data: Mapping[str, Any]

    @classmethod
    def read(cls, fields: Fields) -> Event:
        """Read it."""
        return cls(
            seq=fields.number("seq"),
            type=fields.text("type"),
            subject=fields.text("subject"),
            time=fields.time("time"),
            source=fields.text("source"),
            data=fields.mapping("data"),
        )


@dataclass(frozen=True)
class Considered:
    """What was thought of one node."""

    node: str
    chosen: bool
    refused: str | None
    """The filter that refused it, in words."""
    terms: Mapping[str, int]
    """The terms of its score in micro-dollars; the lowest sum wins."""
    score: int | None

    @classmethod
    def read(cls, fields: Fields) -> Considered:
        """Read it."""
        terms = fields.each("terms", lambda term: (term.text("name"), term.number("micro_dollars")))
        return cls(
            node=fields.text("node"),
            chosen=fields.flag("chosen"),
            refused=fields.text_or_none("refused"),
            terms=dict(terms),
            score=fields.number_or_none("score"),
        )


@dataclass(frozen=True)
class Explanation:
    """Why a job is where it is, or nowhere."""

    id: str
    state: str
    summary: str
    """In one paragraph."""
    why: Why | None
    considered: tuple[Considered, ...]
    nearest_change: str | None
    """The nearest change that would make it run now."""

    @classmethod
    def read(cls, fields: Fields) -> Explanation:
        """Read it."""
        return cls(
            id=fields.text("id"),
            state=fields.text("state"),
            summary=fields.text("summary"),
            why=Why.read(fields),
            considered=fields.each("considered", Considered.read),
            nearest_change=fields.text_or_none("nearest_change"),
        )


@dataclass(frozen=True)
class Artifact:
    """Bytes that the server keeps under their BLAKE3 hash."""

    blob: str
    """The hash, 64 lower-case hex digits."""
    size: int

    @classmethod
    def read(cls, fields: Fields) -> Artifact:
        """Read it."""
        return cls(fields.text("blob"), fields.number("size"))


@dataclass(frozen=True)
class Health:
    """Whether the server lives."""

    status: str
    version: str
    cluster: str

    @classmethod
    def read(cls, fields: Fields) -> Health:
        """Read it."""
        return cls(fields.text("status"), fields.text("version"), fields.text("cluster"))
