"""What both clients need of httpx: settings, requests, and its errors in our words."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from ._errors import GarbledError, UnreachableError, WeftError, from_answer
from ._version import __version__

if TYPE_CHECKING:
    from ._calls import Call
    from ._endpoint import Endpoint

T = TypeVar("T")

_MAX_ANSWER_BYTES = 256 << 20
_CONNECT_S = 5.0
_READ_S = 30.0
# Errors that come before a request has left.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# Errors of the program, not of the network.
_FINAL = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL)


@dataclass(frozen=True)
class Settings:
    """How a client of httpx is made."""

    endpoint: Endpoint
    http2: bool

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `httpx.Client` and `httpx.AsyncClient`."""
        headers = {"user-agent": f"weft-python/{__version__}"}
        if self.endpoint.token:
            headers["authorization"] = f"Bearer {self.endpoint.token}"
        url = self.endpoint.base_url
        return {
            "base_url": url,
            "headers": headers,
            "verify": self.endpoint.ssl_context() if url.startswith("https://") else True,
            "http2": self.http2,
        }


def request_of(call: Call[Any], body: Any) -> dict[str, Any]:
    """Return the arguments of `stream` for a call, with a body of the client's kind.

    Every step is bounded; waiting for the answer also by the time the server may take on purpose.
    """
    return {
        "method": call.method,
        "url": call.path,
        "params": call.params,
        "headers": call.headers,
        "content": body,
        "timeout": httpx.Timeout(_READ_S, connect=_CONNECT_S, read=_READ_S + call.patience),
    }


class Answer:
    """The body of an answer, up to a bound."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._size += len(chunk)
        if self._size > _MAX_ANSWER_BYTES:
            raise GarbledError(f"the server's answer is larger than {_MAX_ANSWER_BYTES} bytes")
        self._chunks.append(chunk)

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self._chunks)


def unreachable(error: httpx.HTTPError, server: str) -> UnreachableError:
    """Say that nobody answered, and whether the request may have arrived."""
    what = str(error) or type(error).__name__
    untrusted = _certificate_error(error)
    return UnreachableError(
        f"the control plane at {server} cannot be reached: {untrusted or what}",
        was_sent=not isinstance(error, _NOT_SENT),
        is_final=untrusted is not None or isinstance(error, _FINAL),
    )


def _certificate_error(error: BaseException) -> str | None:
    """Find the certificate that was not trusted behind an error; waiting does not mend it."""
    cause: BaseException | None = error
    for _ in range(16):
        if cause is None:
            return None
        if isinstance(cause, ssl.SSLCertVerificationError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def refused(response: httpx.Response, body: bytes) -> WeftError:
    """Make the error of an answer."""
    return from_answer(response.status_code, body, response.headers.get("retry-after"))


def clock() -> float:
    """Return seconds of a clock that never jumps."""
    return time.monotonic()
