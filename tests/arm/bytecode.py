"""Bytecode of our packages, made on this machine: it is the same on every processor.

A package makes its own when it is installed, which takes an emulated processor a minute each time.
test_packages lets it do so once.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from root import PYTHON, precompile

_ARCHIVE = "root/bytecode.tar"
_STAND_IN = f"""import subprocess
subprocess.run(["tar", "-C", "/", "-xf", "/{_ARCHIVE}"], check=True)
"""


def bring(packages: Iterable[Path], root: Path) -> None:
    """Have a root's `compileall` lay down the bytecode of packages instead of making it.

    Does nothing where this machine has no Python of the root's version.

    Parameters
    ----------
    packages : iterable of Path
        Also for later revisions of the same files.
    root : Path
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for package in packages:
            subprocess.run(["dpkg-deb", "--extract", package, tree], check=True)
        precompile(tree / "opt", tree)
        made = sorted(str(path.relative_to(tree)) for path in tree.rglob("__pycache__"))
        if made:
            subprocess.run(["tar", "-C", tree, "-cf", root / _ARCHIVE, *made], check=True)
            (root / "usr/lib" / PYTHON / "compileall.py").write_text(_STAND_IN, encoding="utf-8")
