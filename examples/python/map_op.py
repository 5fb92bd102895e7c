"""Counts the asterisks of 100,000 inputs on the cluster, and checks every answer."""

import random

import weft

inputs = [random.randbytes(random.randrange(100)) for _ in range(100_000)]
with weft.Client() as client:
    results = client.map(weft.op("counteq", ord("*")), inputs)
    right = sum(r.value == data.count(b"*") for data, r in zip(inputs, results))
print(f"{right} of {len(inputs)} are right")
