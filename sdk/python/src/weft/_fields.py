"""Reading fields of JSON: what is not as described is an error that names it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Callable, TypeVar

from ._errors import GarbledError

T = TypeVar("T")


class Fields:
    """The fields of a JSON object."""

    __slots__ = ("_fields", "_what")

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise GarbledError(f"the server's answer is not understood: {what} is no object")
        self._fields: dict[str, Any] = value
        self._what = what

    @classmethod
    def parse(cls, text: bytes, what: str) -> Fields:
        """Read an object from JSON."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise GarbledError(f"the server's answer is not JSON: {error}") from error
        return cls(value, what)

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return self._fields.get(name) is not None

    def text(self, name: str) -> str:
        """Text that must be there."""
        return self._get(name, str)

    def text_or_none(self, name: str) -> str | None:
        """Text that may be left out."""
        return self._get(name, str) if self.has(name) else None

    def number(self, name: str) -> int:
        """Return an integer that must be there."""
        return self._get(name, int)

    def number_or_none(self, name: str) -> int | None:
        """Return an integer that may be left out."""
        return self._get(name, int) if self.has(name) else None

    def flag(self, name: str) -> bool:
        """Whether a field is true; false when it is left out."""
        return self._get(name, bool) if self.has(name) else False

    def time(self, name: str) -> datetime:
        """Return a time that must be there."""
        text = self.text(name)
        try:
            # Python before 3.11 does not know the letter.
            return datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError as error:
            raise self._wrong(name) from error

    def time_or_none(self, name: str) -> datetime | None:
        """Return a time that may be left out."""
        return self.time(name) if self.has(name) else None

    def inner(self, name: str) -> Fields:
        """Return an object that must be there."""
        return Fields(self._get(name, dict), f"{self._what}.{name}")

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object as it is; empty when it is left out."""
        return self._get(name, dict) if self.has(name) else {}

    def value(self, name: str) -> Any:
        """Return whatever a field has; ``None`` when it is left out."""
        return self._fields.get(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of text; empty when it is left out."""
        values = self._get(name, list) if self.has(name) else []
        if not all(isinstance(value, str) for value in values):
            raise self._wrong(name)
        return tuple(values)

    def each(self, name: str, make: Callable[[Fields], T]) -> tuple[T, ...]:
        """Make something of each object of a list; of none when it is left out."""
        values = self._get(name, list) if self.has(name) else []
        return tuple(make(Fields(value, f"{self._what}.{name}")) for value in values)

    def _get(self, name: str, kind: type[T]) -> T:
        value = self._fields.get(name)
        # A truth value is an int to Python, but not to anybody else.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._wrong(name)
        return value

    def _wrong(self, name: str) -> GarbledError:
        value = repr(self._fields.get(name))[:80]
        return GarbledError(f"the server's answer is not understood: {self._what}.{name}: {value}")
