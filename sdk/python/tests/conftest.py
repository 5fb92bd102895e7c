"""Real servers on free ports, killed with their tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
WEFT = os.environ.get("WEFT_BIN", str(ROOT / "target/release/weft"))


class Server:
    """A control plane with agents in its process."""

    def __init__(self, path: Path, nodes: int) -> None:
        self.data_dir = path / "server"
        self._nodes = nodes
        self._log = path / "server.log"
        self._listen = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None
        self._restarts: list[threading.Thread] = []
        self.kills = 0

    def start(self) -> None:
        command = [WEFT, "up", "-o", "json", "--no-mdns", "--nodes", str(self._nodes)]
        command += ["--engine", "none"]
        command += ["--listen", self._listen, "--data-dir", str(self.data_dir)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._log.read_text()[-2000:]
        # The next start takes the same port.
        self._listen = json.loads(line)["server"].removeprefix("https://")

    def kill(self) -> None:
        """Kills the server without a warning."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        self.kills += 1

    def kill_for_a_while(self, seconds: float = 0.3) -> None:
        """Kills the server now; it is back some time later."""
        self.kill()

        def come_back() -> None:
            time.sleep(seconds)
            self.start()

        thread = threading.Thread(target=come_back)
        thread.start()
        self._restarts.append(thread)

    def stop(self) -> None:
        for thread in self._restarts:
            thread.join()
        if self._process is not None:
            self.kill()

    def client(self) -> weft.Client:
        return weft.Client.from_admin(self.data_dir)

    def wait_for_nodes(self) -> None:
        with self.client() as client:
            eventually(lambda: [node.state for node in client.nodes()] == ["healthy"] * self._nodes)


def eventually(is_true: Callable[[], bool], seconds: float = 30) -> None:
    """Polls until something is true."""
    until = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < until, "not true in time"
        time.sleep(0.01)


def up(path: Path, nodes: int) -> Iterator[Server]:
    server = Server(path, nodes)
    try:
        server.start()
        server.wait_for_nodes()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that no test kills."""
    yield from up(tmp_path_factory.mktemp("weft"), 2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own."""
    yield from up(tmp_path, 2)


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Server]:
    """A server without a node: its work waits."""
    yield from up(tmp_path, 0)


@pytest.fixture
def client(shared: Server) -> Iterator[weft.Client]:
    with shared.client() as client:
        yield client
