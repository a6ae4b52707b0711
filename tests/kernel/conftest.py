"""Shared by the kernel's tests: the known-answer vectors and a compiler for the C program."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
KAT = Path(__file__).parent / "kat"


class Words:
    """The words of one vector, taken from the left; a count of words is never assumed."""

    def __init__(self, line: str) -> None:
        self._words = iter(line.split())

    def text(self) -> str:
        return next(self._words)

    def integer(self) -> int:
        return int(next(self._words))

    def integers(self, n: int) -> list[int]:
        return [self.integer() for _ in range(n)]

    def floats(self, n: int, dtype: type) -> np.ndarray:
        unsigned = np.uint32 if dtype is np.float32 else np.uint64
        return np.array([int(next(self._words), 16) for _ in range(n)], unsigned).view(dtype)

    def done(self) -> bool:
        return next(self._words, None) is None


def vectors(name: str) -> Iterator[Words]:
    for line in (KAT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield Words(line)


@pytest.fixture(name="vectors")
def vectors_fixture() -> Callable[[str], Iterator[Words]]:
    return vectors


@pytest.fixture
def run_c_program(tmp_path: Path) -> Callable[..., str]:
    """Build the C test program with the given flags, run it, and return what it printed."""
    native_compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")

    def run(
        *flags: str, compiler: str | None = native_compiler, emulator: str | None = None
    ) -> str:
        if compiler is None:
            pytest.skip("no C compiler")
        program = tmp_path / "vectors"
        sources = [*(ROOT / "native/test").glob("*.c"), *(ROOT / "native/src").glob("*.c")]
        command = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
        command += [*flags, "-o", str(program), *map(str, sources), "-lm"]
        built = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert built.returncode == 0, built.stderr
        call = [str(program), str(KAT)] if emulator is None else [emulator, str(program), str(KAT)]
        done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
