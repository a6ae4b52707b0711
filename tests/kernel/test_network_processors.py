"""The network's vectors on aarch64 with and without dot products: the C program under qemu."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cpu", "isas"), [("cortex-a53", "neon portable"), ("cortex-a76", "dotprod neon portable")]
)
def test_every_vector_with_and_without_dot_products(
    run_c_program: Callable[..., str], monkeypatch: pytest.MonkeyPatch, cpu: str, isas: str
) -> None:
    for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64-static"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    monkeypatch.setenv("QEMU_CPU", cpu)
    flags = ["-O3", "-fno-trapping-math", "-fno-math-errno", "-mcpu=cortex-a53", "-static"]
    printed = run_c_program(
        *flags, compiler="aarch64-linux-gnu-gcc", emulator="qemu-aarch64-static"
    )
    assert f"generator.txt: 10 vectors on {isas}\n" in printed
    assert " 0 failed" in printed
