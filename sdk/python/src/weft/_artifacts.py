"""Artifacts: content with its BLAKE3 hash, and files that appear only when they are whole."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from typing_extensions import Self

from ._errors import ConfigError
from ._model import Artifact

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from types import TracebackType

    from ._endpoint import StrPath

Source = Union[bytes, bytearray, memoryview, str, "os.PathLike[str]"]
"""What to upload: bytes, or the path of a file."""

_CHUNK_BYTES = 256 << 10


class Content:
    """Something to upload, and the name it will have."""

    def __init__(self, source: Source) -> None:
        hasher = _hasher()
        self._source: bytes | Path
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._source = bytes(source)
        else:
            self._source = Path(source)
        self.size = 0
        for chunk in self:
            hasher.update(chunk)
            self.size += len(chunk)
        self.blob: str = hasher.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the content; any number of times."""
        if isinstance(self._source, bytes):
            yield self._source
            return
        with self._source.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    @property
    def artifact(self) -> Artifact:
        """The artifact it is once it was uploaded."""
        return Artifact(self.blob, self.size)


def _hasher() -> Any:
    try:
        from blake3 import blake3  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ConfigError(
            "artifacts are named by their BLAKE3 hash, which Python does not have",
            next="pip install 'weft[blobs]'",
        ) from error
    return blake3()


class Download:
    """A file that takes its name once it is whole."""

    def __init__(self, path: StrPath) -> None:
        self._path = Path(path)
        self._partial = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        self._file = self._partial.open("xb")

    def write(self, chunk: bytes) -> None:
        """Append to it."""
        self._file.write(chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if error is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink()
