"""The same bits on other processors: the C test program, cross-compiled and run under qemu."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "emulator", "flags", "isa"),
    [
        ("aarch64-linux-gnu-gcc", "qemu-aarch64-static", ["-mcpu=cortex-a53"], "aarch64"),
        ("arm-linux-gnueabihf-gcc", "qemu-arm-static", [], "arm"),
        ("clang", None, [], platform.machine().replace("_", "-")),
    ],
)
def test_every_vector(
    run_c_program: Callable[..., str],
    compiler: str,
    emulator: str | None,
    flags: list[str],
    isa: str,
) -> None:
    for tool in (compiler, emulator):
        if tool is not None and shutil.which(tool) is None:
            # CI installs them all: a skip there would hide that nothing was checked.
            (pytest.fail if "CI" in os.environ else pytest.skip)(f"{tool} is not installed")
    link = ["-static"] if emulator is not None else []
    fast = ["-O3", "-fno-trapping-math", "-fno-math-errno"]
    printed = run_c_program(*fast, *flags, *link, compiler=compiler, emulator=emulator)
    assert f"\n{isa}" in printed
    if emulator is not None:  # the other compiler of this machine may find wider lanes here
        assert "lanes up to portable" in printed
    assert " 0 failed" in printed
