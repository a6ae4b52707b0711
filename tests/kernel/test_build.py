"""The package as others get it: source distribution, wheel, and the extension inside."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD_S = 300
# Runs inside the unpacked wheel: the compiled kernel repeats a vector of tests/kernel/kat.
PROBE = """
import sys, numpy
sys.path.insert(0, sys.argv[1])
import edge_runtime.kernel as kernel
assert kernel.__file__.startswith(sys.argv[1]), kernel.__file__
out = numpy.empty(3, numpy.float32)
kernel.fill_uniform(out, key=bytes(32), stream=0)
print(" ".join(f"{bits:08x}" for bits in out.view(numpy.uint32)))
"""


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=BUILD_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hook(source: Path, name: str, out: Path) -> Path:
    """Call a PEP 517 hook of the in-tree backend, in the environment of the tests."""
    out.mkdir(exist_ok=True)
    call = f"import backend; print(backend.{name}({str(out)!r}))"
    path = f"import sys; sys.path.insert(0, {str(source / 'native')!r}); {call}"
    return out / run(sys.executable, "-c", path, cwd=source).split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution made from a copy of the tree, so that nothing is built in the tree."""
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "build")
    for name in ("edge_runtime", "native", "broker_config"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    return hook(source, "build_sdist", tmp_path_factory.mktemp("sdist"))


def unpacked(sdist: Path, where: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(where, filter="data")
    (source,) = where.iterdir()
    return source


@pytest.mark.slow
def test_source_distribution_to_wheel(sdist: Path, tmp_path: Path) -> None:
    source = unpacked(sdist, tmp_path / "source")
    headers = {path.name for path in (ROOT / "native/src").iterdir()}
    assert {path.name for path in (source / "native/src").iterdir()} == headers
    wheel = hook(source, "build_wheel", tmp_path / "dist")
    name = wheel.name.removesuffix(".whl").split("-")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert name[2:] == ["cp311", "abi3", platform]
    target = tmp_path / "target"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(entry for entry in names if entry.endswith(".dist-info/WHEEL"))
        tags = email.message_from_bytes(archive.read(metadata))
        archive.extractall(target)
    assert tags["Root-Is-Purelib"] == "false"
    assert tags["Tag"] == f"cp311-abi3-{platform}"
    assert "edge_runtime/kernel/_native.abi3.so" in names
    assert not [entry for entry in names if entry.startswith(("native", "tests"))]
    kat = (ROOT / "tests/kernel/kat/streams.txt").read_text(encoding="utf-8").splitlines()
    first = next(line.split() for line in kat if line.startswith("uniform"))
    assert run(sys.executable, "-c", PROBE, str(target), cwd=tmp_path).split() == first[5:8]


@pytest.mark.slow
def test_wheel_in_an_isolated_environment(sdist: Path, tmp_path: Path) -> None:
    """pip builds in an environment of its own, with only what [build-system] names."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", str(environment), cwd=tmp_path)
    command = [str(environment / "bin/python"), "-m", "pip", "wheel", "--no-deps", "-w", "dist"]
    done = subprocess.run(
        [*command, str(sdist)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    if "No matching distribution found for setuptools" in done.stdout + done.stderr:
        pytest.skip("no package index to take setuptools and cffi from")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name.split("-")[3] for path in (tmp_path / "dist").iterdir()] == ["abi3"]
