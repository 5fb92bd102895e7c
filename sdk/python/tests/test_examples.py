"""The examples run as they are; `map_op.py` is run under kills in test_kill.py."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from conftest import ROOT, Server

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = ROOT / "examples/python"


def test_the_words_of_files_are_counted(shared: Server, tmp_path: Path) -> None:
    files = []
    for count in (3, 0, 1000):
        files.append(tmp_path / f"{count}.txt")
        files[-1].write_text("word " * count)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "wordcount.py"), *map(str, files)],
        env={**os.environ, "WEFT_CONTEXT": str(shared.data_dir)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    words = [line.split()[0] for line in done.stdout.splitlines()]
    assert words == ["3", "0", "1000", "1003"]


def test_the_ten_lines_are_ten() -> None:
    lines = (EXAMPLES / "map_op.py").read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith('"')]) <= 10
