"""Unpickles a model in a process of its own, from which only plain numbers come back.

This is not a sandbox. What the file makes that process do, it does with the rights of whoever
started it: read and write files, use the network. It does keep the file's code out of this
process, away from this process's environment, working directory and home directory, and gives back
nothing that could execute anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from edge_runtime.errors import MissingExtraError, ModelImportError
from edge_runtime.importing.sdv.description import Description
from edge_runtime.importing.sdv.pickle_names import SUPPORTED, Names, list_names

__all__ = ["check_model", "unpickle"]

_CHILD = "from edge_runtime.importing.sdv.reading import child; child()"
#: importing torch and SDV takes seconds, and a file may stall
_TIMEOUT_S = 600.0


def check_model(data: bytes, *, file: object) -> Names:
    """Refuse a file that is no CTGAN or TVAE of SDV, without unpickling it.

    Parameters
    ----------
    data : bytes
        The file.
    file : object
        Its path, for messages.

    Raises
    ------
    ModelImportError
        It is no pickle, or one of something else.
    MissingExtraError
        SDV or torch is not installed.
    """
    names = list_names(data, file=file)
    if names.first not in SUPPORTED:
        what = names.first.rpartition(".")[2]
        whose = "SDV's " if names.first.startswith("sdv.") else ""
        raise ModelImportError(
            f"{file} is a pickle of {whose}{what} ({names.first}); CTGANSynthesizer and "
            "TVAESynthesizer of SDV 2 can be imported"
        )
    for package in ("sdv", "torch"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "sdv")
    return names


def unpickle(data: bytes, *, file: object, timeout_s: float = _TIMEOUT_S) -> Description:
    """Unpickle and describe a model: RUNS WHATEVER CODE THE FILE NAMES.

    Parameters
    ----------
    data : bytes
        The file, as `check_model` has seen it.
    file : object
        Its path, for messages.
    timeout_s : float

    Raises
    ------
    ModelImportError
        It cannot be unpickled or is not supported.
    """
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
        out = Path(folder) / "description.safetensors"
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
        environment = {
            **kept,
            "HOME": folder,
            "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path),
        }
        try:
            done = subprocess.run(  # noqa: S603 - this interpreter, a constant program
                [sys.executable, "-W", "ignore", "-c", _CHILD, str(out)],
                input=data,
                capture_output=True,
                cwd=folder,
                env=environment,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ModelImportError(f"{file} was not read in {timeout_s:.0f} s") from error
        failed = out.with_suffix(".error")
        if failed.exists():
            # Whatever the file's code wrote there.
            said = failed.read_text(encoding="utf-8", errors="replace")
            raise ModelImportError(f"{file}: {said}")
        if done.returncode or not out.exists():
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            ended = "".join(last) or f"the process ended with {done.returncode}"
            raise ModelImportError(
                f"{file} cannot be unpickled here ({ended}); it needs the release of SDV that "
                "wrote it, and was it saved on a machine with a GPU?"
            )
        return Description.from_bytes(out.read_bytes())
