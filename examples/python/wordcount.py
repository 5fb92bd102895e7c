"""Counts the words of files on the cluster: python wordcount.py FILE…"""

import sys
from pathlib import Path

import weft


def main(paths: list[str]) -> None:
    with weft.Client() as client:
        job = client.submit(
            name="wordcount",
            runtime="process",
            process={"command": ["wc", "-w"]},
            tasks=[Path(path).read_bytes() for path in paths],
        )
        [results] = client.gather(job)
    counts = [int(result.value) for result in results]
    for path, count in zip(paths, counts):
        print(f"{count:8} {path}")
    print(f"{sum(counts):8} in all")


if __name__ == "__main__":
    main(sys.argv[1:])
