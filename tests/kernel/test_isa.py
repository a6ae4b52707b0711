from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner

from edge_runtime import kernel
from edge_runtime.cli.doctor import doctor
from edge_runtime.device.doctor import machine as module
from edge_runtime.errors import KernelError

NAMES = {"x86-64": "portable", "x86-64-v3": "avx2", "x86-64-v4": "avx512", "aarch64": "portable"}
SHOW = "from edge_runtime import kernel; print(kernel.isa(), kernel.lanes())"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = kernel.isa()
    yield
    kernel.select_isa(before)


def run(code: str, isa: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGE_RUNTIME_ISA": isa}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_fastest_is_chosen_and_each_can_be_forced() -> None:
    kernel.select_isa(None)
    available = kernel.available_isas()
    assert kernel.isa() == available[-1]
    for name in available:
        kernel.select_isa(name)
        assert (kernel.isa(), kernel.lanes()) == (name, NAMES.get(name, "portable"))


def test_the_environment_forces_one_from_the_start() -> None:
    for name in kernel.available_isas():
        assert run(SHOW, name).stdout.split() == [name, NAMES.get(name, "portable")]
    assert run(SHOW, "").stdout.split()[0] == kernel.available_isas()[-1]


def test_an_impossible_one_is_a_clear_error_and_changes_nothing() -> None:
    before = kernel.isa()
    with pytest.raises(KernelError, match=r"'z80' cannot run here; this processor .* have"):
        kernel.select_isa("z80")
    assert kernel.isa() == before
    done = run(SHOW, "x86-64-v9")
    assert done.returncode != 0
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("edge_runtime.errors.KernelError: EDGE_RUNTIME_ISA: ")
    assert kernel.available_isas()[0] in line
    assert "unset it" in line


def test_every_instruction_set_gives_the_same_bits() -> None:
    random = np.random.default_rng(5)
    codes = random.integers(0, 9, (5000, 3)).astype(np.int32)
    knots = np.sort(random.normal(size=(8, 7)), axis=1)
    logits = random.normal(size=(5000, 24)).astype(np.float32)
    u = random.random((5000, 3), dtype=np.float32)
    seen = set()
    for name in kernel.available_isas():
        kernel.select_isa(name)
        parts = []
        for fill in (kernel.fill_uniform, kernel.fill_normal, kernel.fill_exponential):
            out = np.empty(3000, np.float32)
            fill(out, key=bytes(32), stream=1, offset=77)
            parts.append(out.tobytes())
        for dtype, decimals in (
            (np.float64, None),
            (np.float32, 2),
            (np.float64, -1),
            (np.int64, 0),
        ):
            values = np.empty(5000, dtype)
            kernel.decode_linear(codes[:, 1], u[:, 2], knots, values, decimals=decimals)
            parts.append(np.nan_to_num(values, nan=9e9).tobytes())
        parts.append(kernel.count_pairs(codes[:, 0], codes[:, 2], 9, 9).tobytes())
        parts.append(kernel.categorical(logits, u, [5, 17, 2], temperature=0.7).tobytes())
        seen.add(b"".join(parts))
    assert len(seen) == 1


def test_the_doctor_finds_a_sound_machine_sound() -> None:
    done = CliRunner().invoke(doctor, ["--json"])
    assert done.exit_code == 0, done.output
    rows = {row["check"]: row for row in json.loads(done.output)}
    assert set(rows) == {"python", "instruction set", "kernel", "engines", "clock"}
    assert not any(row["problem"] or row["fix"] for row in rows.values())
    assert kernel.isa() in rows["instruction set"]["found"]
    engines = rows["engines"]["found"]
    assert engines.startswith(f"kernel ({kernel.network_isa()} products), ")
    assert ", onnx (" in engines
    text = CliRunner().invoke(doctor).output
    assert "PROBLEM" not in text
    assert f"{kernel.isa()} ({kernel.lanes()} lanes)" in text


def test_the_doctor_names_problem_and_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_RUNTIME_NETWORK_ISA", "z80")
    monkeypatch.setattr(module.time, "time", lambda: 0.0)
    monkeypatch.setattr(module, "_KNOWN_ANSWER", (1, 2, 3))
    before = kernel.isa()
    done = CliRunner().invoke(doctor, ["--json"])
    assert done.exit_code == 1
    rows = {row["check"]: row for row in json.loads(done.output)}
    for check in ("engines", "clock", "kernel"):
        assert rows[check]["problem"]
        assert rows[check]["fix"]
    assert not rows["python"]["problem"]
    assert kernel.isa() == before
    assert CliRunner().invoke(doctor).output.count("PROBLEM") == 3


def test_the_doctor_reports_an_impossible_instruction_set() -> None:
    code = "from edge_runtime.cli.doctor import doctor; doctor(['--json'])"
    done = run(code, "x86-64-v9")
    assert done.returncode == 1, done.stderr
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert "cannot run here" in rows["instruction set"]["problem"]
    assert rows["instruction set"]["fix"] == "unset EDGE_RUNTIME_ISA"
