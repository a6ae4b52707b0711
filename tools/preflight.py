"""Says what a machine lacks before anything is installed, instead of a compiler's error after it.

Runs on the bare system Python, so it uses the standard library only.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from pathlib import Path


def problems() -> list[str]:
    """Everything that stands in the way of `make demo`, each with its remedy."""
    found = []
    if sys.version_info < (3, 11):  # noqa: UP036 - this is the check for exactly that
        found.append(
            f"Python {sys.version.split()[0]} is too old: install Python >= 3.11 "
            "and call: make PYTHON=python3.11 demo"
        )
    if not any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang")):
        found.append("no C compiler: install gcc (Debian, Ubuntu: apt install gcc libc6-dev)")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        found.append("Python.h is missing: install python3-dev (apt install python3-dev)")
    if not any(importlib.util.find_spec(module) for module in ("ensurepip", "virtualenv")):
        found.append(
            "no way to make a virtual environment: apt install python3-venv, "
            "or: pip install --user virtualenv"
        )
    return found


if __name__ == "__main__":
    for problem in (missing := problems()):
        sys.stderr.write(f"preflight: {problem}\n")
    sys.exit(1 if missing else 0)
