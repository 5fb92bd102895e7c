"""Tasks a second of Dask distributed (https://github.com/dask/distributed): `run_dask.py COUNT`.

One worker process with two threads. Prints the seconds from `map` to the last result of `gather`.
"""

import sys
import time

from distributed import Client, LocalCluster


def noop(number):
    return number


if __name__ == "__main__":
    count = int(sys.argv[1])
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None
    ) as cluster, Client(cluster) as client:
        client.gather(client.map(noop, range(-100, 0)))
        started = time.monotonic()
        results = client.gather(client.map(noop, range(count), pure=False))
        took = time.monotonic() - started
        assert len(results) == count
        print(took)
