"""Client of Weft: one computer out of many.

    import weft

    with weft.Client() as client:
        for result in client.map(weft.op("counteq", 42), [b"a*b", b"***"]):
            print(result.value)

`Client` and `AsyncClient` have the same methods, and these the names of the REST interface.
"""

from ._async_client import AsyncClient
from ._client import Client
from ._endpoint import Endpoint
from ._errors import (
    ConfigError,
    FieldError,
    GarbledError,
    NotAllowedError,
    NotFoundError,
    QueueFullError,
    TaskFailedError,
    UnreachableError,
    WaitOverError,
    WeftError,
)
from ._model import (
    Artifact,
    Capacity,
    Considered,
    Event,
    Explanation,
    Health,
    Job,
    Node,
    Output,
    OutputFile,
    Task,
    TaskCounts,
    TaskResult,
    Usage,
    Why,
)
from ._retry import Retry
from ._tasks import op
from ._version import __version__

__all__ = [
    "Artifact",
    "AsyncClient",
    "Capacity",
    "Client",
    "ConfigError",
    "Considered",
    "Endpoint",
    "Event",
    "Explanation",
    "FieldError",
    "GarbledError",
    "Health",
    "Job",
    "Node",
    "NotAllowedError",
    "NotFoundError",
    "Output",
    "OutputFile",
    "QueueFullError",
    "Retry",
    "Task",
    "TaskCounts",
    "TaskFailedError",
    "TaskResult",
    "UnreachableError",
    "Usage",
    "WaitOverError",
    "WeftError",
    "Why",
    "__version__",
    "op",
]
