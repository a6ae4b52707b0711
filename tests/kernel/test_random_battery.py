"""A short battery of dieharder over the uniform stream; the tool itself runs the long one."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "random_battery.py"
MONOBIT = 100


@pytest.fixture(scope="module")
def battery() -> ModuleType:
    if shutil.which("dieharder") is None:
        # CI installs it: a skip there would hide that nothing was checked.
        (pytest.fail if "CI" in os.environ else pytest.skip)("dieharder is not installed")
    spec = importlib.util.spec_from_file_location("random_battery", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_short_battery_finds_nothing(
    battery: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    # the key is fixed, so the p-values are the same in every run
    assert battery.main(["--short"]) == 0
    printed = capsys.readouterr().out
    assert "sts_monobit" in printed
    assert int(printed.splitlines()[-1].split()[0]) >= len(battery.SHORT_TESTS)


@pytest.mark.slow
def test_the_battery_finds_a_bias(
    battery: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = battery.kernel.PreparedFill

    class Biased:
        """The kernel's numbers, the upper bit of every fifth one cleared."""

        def __init__(self, kind: str, out: np.ndarray, *, key: bytes, stream: int) -> None:
            self._fill, self._out = real(kind, out, key=key, stream=stream), out

        def __call__(self, offset: int) -> None:
            self._fill(offset)
            self._out[::5] %= np.float32(0.5)

    monkeypatch.setattr(battery.kernel, "PreparedFill", Biased)
    monkeypatch.setattr(battery, "SHORT_TESTS", (MONOBIT,))
    assert battery.main(["--short"]) == 1
    assert "FAILED" in capsys.readouterr().out
