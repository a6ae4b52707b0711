"""The project's wheel for another processor, and the wheels that it needs beside it.

The kernel is one C file against Python's limited interface (abi3), so a cross compiler and the
headers of the Python at hand are all it takes: nothing of the target runs here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "TARGETS", "Target", "build_wheel", "install_wheels", "source_date_epoch"]

ROOT = Path(__file__).parents[2]
#: exact versions of what goes into a package, so that the same commit gives the same bytes
CONSTRAINTS = Path(__file__).parent / "constraints.txt"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A processor, as Debian, the compiler and Python each call it.

    Parameters
    ----------
    debian : str
        `dpkg --print-architecture`.
    machine : str
        `uname -m`, also in Python's platform tags.
    flags : tuple of str
        For the oldest processor that the package must run on.
    """

    debian: str
    machine: str
    flags: tuple[str, ...]

    @property
    def triplet(self) -> str:
        """The prefix of the compiler and the directory of libraries."""
        return f"{self.machine}-linux-gnu"


TARGETS = {
    # Raspberry Pi 3 and Zero 2 W have Cortex-A53 cores; later boards run the same code.
    "arm64": Target(debian="arm64", machine="aarch64", flags=("-mcpu=cortex-a53",)),
    "amd64": Target(debian="amd64", machine="x86_64", flags=()),
}


def source_date_epoch() -> int:
    """Return the time that everything built from this commit bears, in seconds since 1970."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    shown = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    # Outside a checkout any fixed time does.
    return int(shown.stdout) if shown.returncode == 0 else 1_700_000_000


def build_wheel(target: Target, directory: Path) -> Path:
    """Build the project's abi3 wheel for a processor.

    Parameters
    ----------
    target : Target
    directory : Path
        Where the wheel is put; wheels of the project that lie there are removed first.

    Raises
    ------
    SystemExit
        When the cross compiler is missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("edge_runtime-*.whl"):
        old.unlink()
    compiler = f"{target.triplet}-gcc"
    if shutil.which(compiler) is None:
        sys.exit(f"{compiler} is missing: apt install gcc-{target.triplet.replace('_', '-')}")
    flags = [*target.flags, f"-ffile-prefix-map={ROOT}=."]
    headers = _headers(target, directory)
    if headers is not None:
        flags.append(f"-I{headers}")
    environment = os.environ | {
        # setuptools takes the platform of the wheel from here, as CPython's own cross builds do
        "_PYTHON_HOST_PLATFORM": f"linux-{target.machine}",
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared -s",
        "CFLAGS": " ".join(flags),
        "SOURCE_DATE_EPOCH": str(source_date_epoch()),
    }
    # The build backend by itself: pip would take the target's name for this machine's.
    call = "import sys, backend; backend.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", call, str(directory.resolve())]
    environment["PYTHONPATH"] = str(ROOT / "native")
    (ROOT / "build").mkdir(exist_ok=True)
    # One at a time: setuptools builds in the source tree.
    with (ROOT / "build" / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # What an earlier build left, of another processor or of modules that are gone, is not
        # taken up.
        for kind in ("lib", "temp", "bdist"):
            for old in (ROOT / "build").glob(f"{kind}.*"):
                shutil.rmtree(old)
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(f"the wheel for {target.machine} was not built:\n{done.stdout}{done.stderr}")
    return next(directory.glob("edge_runtime-*.whl"))


def install_wheels(
    target: Target, python: str, requirements: Iterable[str], directory: Path, wheel: Path
) -> None:
    """Install wheels of a processor into a directory, without running any of their code.

    Parameters
    ----------
    target : Target
    python : str
        The target's Python, as in `3.11`.
    requirements : iterable of str
        Names of packages and extras beside the project's own wheel.
    directory : Path
        Becomes a `site-packages`.
    wheel : Path
        From `build_wheel`.
    """
    platforms = [f"manylinux_2_{minor}_{target.machine}" for minor in range(17, 37)]
    platforms += [f"manylinux2014_{target.machine}", f"linux_{target.machine}"]
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command += ["--no-compile", "--only-binary=:all:", "--target", str(directory)]
    command += ["--python-version", python, "--implementation", "cp"]
    for abi in (f"cp{python.replace('.', '')}", "abi3", "none"):
        command += ["--abi", abi]
    for platform in platforms:
        command += ["--platform", platform]
    command += ["--constraint", str(CONSTRAINTS), str(wheel), *requirements]
    subprocess.run(command, check=True)


def _headers(target: Target, directory: Path) -> Path | None:
    """Stand in for the target's `pyconfig.h` where Debian's Python looks for it.

    Debian's `pyconfig.h` includes a file by the name of the processor. All that the limited
    interface takes from it are sizes, which every 64-bit Linux shares.
    """
    include = Path(sysconfig.get_paths()["include"])
    here = Path("/usr/include") / f"{os.uname().machine}-linux-gnu" / include.name / "pyconfig.h"
    if not here.exists():
        return None
    headers = directory.resolve() / "headers"
    there = headers / target.triplet / include.name
    there.mkdir(parents=True, exist_ok=True)
    shutil.copy(here, there)
    return headers
