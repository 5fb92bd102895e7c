"""Tasks a second of HyperQueue (https://github.com/It4innovations/hyperqueue): `run_hyperqueue.py COUNT`.

A server and one worker with two cores; each task runs `true` with its output discarded. Prints the
seconds from submission to the end of the last task, in which building the job has no part.
"""

import sys
import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

with LocalCluster() as cluster:
    cluster.start_worker(WorkerConfig(cores=2))
    client = cluster.client()
    job = Job()
    for _ in range(int(sys.argv[1])):
        job.program(["true"], stdout=None, stderr=None)
    started = time.monotonic()
    client.wait_for_jobs([client.submit(job)])
    print(time.monotonic() - started)
