"""When and how often something is tried again.

Only what is safe is sent twice: what reads, what carries an idempotency key, what changes nothing
the second time, and what the server never got or refused with a time to come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._errors import UnreachableError, WeftError

if TYPE_CHECKING:
    from collections.abc import Callable

# Answers of a server, or of a proxy before it, that is only busy or away.
_AWAY = frozenset({502, 503, 504})


@dataclass(frozen=True)
class Retry:
    """Exponential backoff with full jitter, bounded by a deadline."""

    deadline: float = 60.0
    """How long one call, or a stream without progress, is tried, in seconds; 0 tries once."""
    base: float = 0.1
    """The longest wait before the second attempt, in seconds; it doubles for each further one."""
    cap: float = 5.0
    """The longest wait between attempts, in seconds, unless the server asks for more."""


LEAVING = Retry(deadline=1.0)
"""For what is tidied up when somebody leaves."""


class Attempts:
    """The attempts at one call. Time and randomness are arguments."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._count = 0
        self._until: float | None = None

    def progress(self) -> None:
        """Note that something arrived: what fails next is another failure."""
        self._count = 0
        self._until = None

    def delay(
        self, error: WeftError, *, safe: bool, now: float, random: Callable[[], float]
    ) -> float:
        """Return how long to wait before the next attempt, in seconds.

        Raises the error when there is no next attempt. `random` gives numbers from 0 to 1.
        """
        if not _may_repeat(error, safe=safe):
            raise error
        if self._until is None:
            # Counted from the first failure: a reader of a stream may take its time.
            self._until = now + self._retry.deadline
        ceiling = min(self._retry.cap, self._retry.base * 2.0 ** min(self._count, 32))
        wait = (error.retry_after or 0.0) + random() * ceiling
        if now + wait >= self._until:
            raise error
        self._count += 1
        return wait


def _may_repeat(error: WeftError, *, safe: bool) -> bool:
    if isinstance(error, UnreachableError):
        return not error.is_final and (safe or not error.was_sent)
    if error.retry_after is not None:
        # The server did nothing but say when it will.
        return True
    return safe and error.status in _AWAY
