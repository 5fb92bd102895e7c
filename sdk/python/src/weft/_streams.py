"""Streams that go on where they were when a connection breaks.

A stream is a machine without a connection: it says what to ask for, takes the bytes that come,
and gives back what is new. The clients carry the bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from . import _calls as calls
from ._calls import POLL_S, Call
from ._errors import GarbledError, UnreachableError
from ._fields import Fields
from ._model import Event, TaskResult

T = TypeVar("T")

_MAX_LINE_BYTES = 64 << 20
# The longest that the server lets a request wait.
_MAX_POLL_S = 600.0
# The server shows every 15 s that a quiet stream of events lives.
_EVENT_SILENCE_S = 30.0


class Lines:
    """Cuts chunks of bytes into lines."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that are complete now, without their ends."""
        end = chunk.rfind(b"\n")
        if end < 0:
            self._rest += chunk
            if len(self._rest) > _MAX_LINE_BYTES:
                raise GarbledError(f"a line of the answer is longer than {_MAX_LINE_BYTES} bytes")
            return []
        lines = (bytes(self._rest) + chunk[:end]).split(b"\n")
        self._rest = bytearray(chunk[end + 1 :])
        return lines

    @property
    def is_within_a_line(self) -> bool:
        """Whether the last line has no end yet."""
        return bool(self._rest)


class Stream(ABC, Generic[T]):
    """Something that is followed over as many connections as it takes."""

    @abstractmethod
    def call(self, now: float) -> Call[None] | None:
        """Return what to ask for next; ``None`` at the end. Forgets what was incomplete."""

    @abstractmethod
    def feed(self, chunk: bytes) -> list[T]:
        """Take bytes of the answer; return what is new."""

    @abstractmethod
    def ended(self, now: float) -> None:
        """Take note that the server ended the answer; raise when it broke off instead."""


class ResultStream(Stream[TaskResult]):
    """The results of a job, each once."""

    def __init__(
        self,
        job: str,
        total: int,
        *,
        in_order: bool,
        until: float | None,
        first: int = 0,
    ) -> None:
        self._job = job
        self._total = total
        self._in_order = in_order
        self._until = until
        self._next = first
        # A bit a task, for those that end out of order.
        self._seen = bytearray(0 if in_order else (total + 7) // 8)
        self._lines = Lines()
        self._poll = POLL_S
        self._poll_until = 0.0
        self._has_news = True
        self._is_over = False

    @property
    def is_complete(self) -> bool:
        """Whether every result came."""
        return self._next >= self._total

    def call(self, now: float) -> Call[None] | None:
        """Ask for the results from the first one that is missing."""
        if self.is_complete or self._is_over:
            return None
        wait = self._poll if self._until is None else min(self._poll, max(0.0, self._until - now))
        self._poll_until = now + wait
        self._lines = Lines()
        self._has_news = False
        return calls.results(self._job, "task" if self._in_order else "finish", self._next, wait)

    def feed(self, chunk: bytes) -> list[TaskResult]:
        """Take lines; those that came before are left out."""
        found = []
        for line in self._lines.feed(chunk):
            if line.strip():
                result = TaskResult.read(Fields.parse(line, "result"), self._job)
                if self._is_new(result.task):
                    found.append(result)
        self._has_news = self._has_news or bool(found)
        return found

    def _is_new(self, task: int) -> bool:
        if not 0 <= task < self._total:
            raise GarbledError(f"{self._job} has no task {task}")
        if task < self._next:
            return False
        if self._in_order:
            if task != self._next:
                raise GarbledError(f"the result of task {task} came before that of {self._next}")
            self._next += 1
            return True
        if self._seen[task >> 3] & 1 << (task & 7):
            return False
        self._seen[task >> 3] |= 1 << (task & 7)
        while self._next < self._total and self._seen[self._next >> 3] & 1 << (self._next & 7):
            self._next += 1
        return True

    def ended(self, now: float) -> None:
        """End when all came or the wait is over; otherwise the server is asked again."""
        if self.is_complete:
            return
        if self._until is not None and now >= self._until:
            self._is_over = True
            return
        # An answer that ends before its time brought something, or something is wrong.
        if self._lines.is_within_a_line or (not self._has_news and now < self._poll_until - 0.5):
            raise UnreachableError("the stream of results broke off", was_sent=True)
        if not self._in_order:
            # What ended after a task that goes on comes again with every request: ask less often.
            self._poll = min(_MAX_POLL_S, self._poll * 2)


class EventStream(Stream[Event]):
    """Events in the order of their numbers, each once."""

    def __init__(
        self,
        since: int,
        *,
        follow: bool,
        kind: str | None,
        subject: str | None,
    ) -> None:
        self._since = since
        self._follow = follow
        self._kind = kind
        self._subject = subject
        self._lines = Lines()
        self._data: list[bytes] = []
        self._is_over = False

    def call(self, now: float) -> Call[None] | None:  # noqa: ARG002 - it has no deadline
        """Ask for the events after the last one."""
        if self._is_over:
            return None
        self._lines, self._data = Lines(), []
        call = calls.events(
            self._since, follow=self._follow, kind=self._kind, subject=self._subject
        )
        return Call(**{**call.__dict__, "patience": _EVENT_SILENCE_S})

    def feed(self, chunk: bytes) -> list[Event]:
        """Take lines of server-sent events."""
        found = []
        for line in self._lines.feed(chunk):
            text = line.rstrip(b"\r")
            if text.startswith(b"data:"):
                self._data.append(text[5:].strip())
            elif not text and self._data:
                event = Event.read(Fields.parse(b"\n".join(self._data), "event"))
                self._data = []
                if event.seq > self._since:
                    self._since = event.seq
                    found.append(event)
        return found

    def ended(self, now: float) -> None:  # noqa: ARG002 - it has no deadline
        """End if only what is there was wanted; otherwise the server went away."""
        if self._follow:
            raise UnreachableError("the stream of events broke off", was_sent=True)
        self._is_over = True
