"""What can go wrong: every error says why, and what to do next."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._model import TaskResult


@dataclass(frozen=True)
class FieldError:
    """A field that was refused: where it is, as in ``resources.cpu``, and what is wrong with it."""

    path: str
    message: str


class WeftError(Exception):
    """A call that failed, in the words of the server's problem document."""

    def __init__(
        self,
        detail: str,
        *,
        reason: str = "internal",
        next: str | None = None,  # noqa: A002 - the name of the contract
        errors: Sequence[FieldError] = (),
        status: int | None = None,
        kind: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        """What happened this time."""
        self.reason = reason
        """One of the failure reasons of Weft, as in ``invalid-spec``."""
        self.next = next
        """What to do, if there is something to suggest."""
        self.errors = tuple(errors)
        """The fields that were refused."""
        self.status = status
        """The HTTP status, when the server answered."""
        self.kind = kind
        """The ``type`` of the problem document, as in ``urn:weft:problem:queue-full``."""
        self.retry_after = retry_after
        """When the server will look at it again, in seconds."""

    def __str__(self) -> str:
        return f"{self.detail} ({self.next})" if self.next else self.detail


class NotFoundError(WeftError):
    """There is no such job, node or artifact."""


class NotAllowedError(WeftError):
    """The credentials are missing, wrong, or not enough."""


class QueueFullError(WeftError):
    """The server had no room until the deadline for trying again."""


class UnreachableError(WeftError):
    """No server answered, or the connection broke, until the deadline for trying again."""

    def __init__(self, detail: str, *, was_sent: bool, is_final: bool = False) -> None:
        super().__init__(
            detail,
            reason="network-error",
            next="check the address and that the server runs; `weft doctor` finds out more",
        )
        self.was_sent = was_sent
        """Whether the server may have got the request."""
        self.is_final = is_final
        """Whether trying again cannot help."""


class GarbledError(WeftError):
    """The server's answer could not be understood."""


class ConfigError(WeftError, ValueError):
    """No cluster is configured, or its files are not usable."""

    def __init__(self, detail: str, *, next: str | None = None) -> None:  # noqa: A002
        super().__init__(detail, reason="invalid-spec", next=next)


class WaitOverError(WeftError, TimeoutError):
    """The work had not ended when the wait was over; it goes on."""

    def __init__(self, detail: str, *, job: str) -> None:
        super().__init__(detail, reason="timeout", next=f"weft explain {job}")
        self.job = job
        """The job that was waited for."""


class TaskFailedError(WeftError):
    """A task did not complete."""

    def __init__(self, result: TaskResult) -> None:
        why = result.why
        what = f"task {result.task} of {result.job} {result.state}"
        super().__init__(
            f"{what}: {why.detail}" if why and why.detail else what,
            reason=why.reason if why else "internal",
            next=why.next if why else None,
        )
        self.result = result
        """What the task left behind."""


def from_answer(status: int, body: bytes, retry_after: str | None) -> WeftError:
    """Make the error of an answer that is none of the good ones."""
    document = _document(body)
    kinds: dict[int, type[WeftError]] = {
        401: NotAllowedError,
        403: NotAllowedError,
        404: NotFoundError,
        429: QueueFullError,
    }
    return kinds.get(status, WeftError)(
        _text(document, "detail") or f"the server answered with status {status}",
        reason=_text(document, "reason") or "internal",
        next=_text(document, "next"),
        errors=_fields(document.get("errors")),
        status=status,
        kind=_text(document, "type"),
        retry_after=_seconds(retry_after),
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) else None


def _fields(value: object) -> list[FieldError]:
    entries = value if isinstance(value, list) else []
    return [
        FieldError(str(entry.get("path", "")), str(entry.get("message", "")))
        for entry in entries
        if isinstance(entry, dict)
    ]


def _seconds(retry_after: str | None) -> float | None:
    try:
        seconds = float(retry_after) if retry_after else None
    except ValueError:
        return None
    return seconds if seconds is not None and seconds >= 0 else None
