"""Log lines of a real process, to a file that is and one that is not the journal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import logging, sys
from edge_runtime.process import complain, log_to_stderr
log_to_stderr(sys.argv[1])
log = logging.getLogger("some.part")
log.debug("d")
log.info("i")
log.warning("w")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("two\\nlines")
log.log(35, "between")
complain("the end")
"""


def run(tmp_path: Path, level: str, *, journal: bool) -> list[str]:
    log = tmp_path / "log"
    with log.open("wb") as file:
        status = os.fstat(file.fileno())
        inode = status.st_ino if journal else status.st_ino + 1
        subprocess.run(
            [sys.executable, "-c", _PROGRAM, level],
            stderr=file,
            check=True,
            timeout=60,
            env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{inode}"},
        )
    return log.read_text().splitlines()


def test_the_journal_gets_priorities_and_no_time(tmp_path: Path) -> None:
    lines = run(tmp_path, "debug", journal=True)
    assert lines[:3] == ["<7>some.part: d", "<6>some.part: i", "<4>some.part: w"]
    assert lines[3:5] == ["<3>some.part: two", "<3>lines"]
    assert lines[-3] == "<3>ZeroDivisionError: division by zero"
    assert lines[-2:] == ["<4>some.part: between", "<3>the end"]
    assert all(re.match("<[3-7]>", line) for line in lines)


@pytest.mark.parametrize("level", ["info", "INFO"])
def test_anything_else_gets_time_and_level(tmp_path: Path, level: str) -> None:
    lines = run(tmp_path, level, journal=False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]+ INFO some\.part: i", lines[0])
    assert lines[-1] == "the end"
