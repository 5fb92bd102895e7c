"""Tasks a second of Celery (https://github.com/celery/celery): `run_celery.py PORT COUNT IN_FLIGHT`.

Two worker processes, Redis as broker and as result backend. Each task is submitted by a `delay()` of its
own and its result awaited by a `get()`, IN_FLIGHT of them at a time. Prints the seconds from the first
`delay()` to the last `get()`.
"""

import os
import subprocess
import sys
import time
from collections import deque

from celery import Celery

port = os.environ.get("REDIS_PORT") or sys.argv[1]
url = f"redis://127.0.0.1:{port}/0"
app = Celery("run_celery", broker=url, backend=url)
app.conf.worker_prefetch_multiplier = 32


@app.task(name="noop")
def noop(number):
    return number


def run(count, in_flight):
    waiting = deque()
    for number in range(count):
        if len(waiting) == in_flight:
            waiting.popleft().get(timeout=60)
        waiting.append(noop.delay(number))
    for result in waiting:
        result.get(timeout=60)


def main():
    count, in_flight = int(sys.argv[2]), int(sys.argv[3])
    quiet = ["--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "celery", "-A", "run_celery", "worker", "--concurrency", "2", *quiet],
        cwd=os.path.dirname(os.path.abspath(__file__)),
        env={**os.environ, "REDIS_PORT": port, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=sys.stderr,
    )
    try:
        # The worker is there once it has answered, and the connections are open.
        run(in_flight, in_flight)
        started = time.monotonic()
        run(count, in_flight)
        print(time.monotonic() - started)
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    main()
