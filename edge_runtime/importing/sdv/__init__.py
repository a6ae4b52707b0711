"""CTGAN and TVAE synthesizers of SDV (the Synthetic Data Vault) as bundles.

Two halves. `unpickling` runs the model's file in a process of its own, which needs SDV and torch,
and gets a plain `Description` back; `convert` makes a graph and a codec of that with numpy and
onnx alone. What agrees with SDV and what does not: docs/import-sdv.md.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_runtime.errors import ModelImportError
from edge_runtime.generator import GraphBundle
from edge_runtime.importing.sdv.convert import convert
from edge_runtime.importing.sdv.description import (
    Description,
    Head,
    Layer,
    Normalisation,
    Output,
    Words,
)
from edge_runtime.importing.sdv.pickle_names import Names, list_names
from edge_runtime.importing.sdv.unpickling import check_model, unpickle

__all__ = [
    "Description",
    "Head",
    "Layer",
    "Names",
    "Normalisation",
    "Output",
    "Words",
    "check_model",
    "convert",
    "import_checked",
    "import_sdv",
    "list_names",
    "unpickle",
]


def import_sdv(path: Path | str) -> GraphBundle:
    """Make a bundle of what an SDV synthesizer's `save` wrote: RUNS WHATEVER CODE IS IN THE FILE.

    Parameters
    ----------
    path : path
        Of a `CTGANSynthesizer` or `TVAESynthesizer` that you or somebody you trust has trained.

    Raises
    ------
    ModelImportError
        The file cannot be read or is something else, or the synthesizer has what cannot be
        imported.
    MissingExtraError
        SDV, torch, onnx or onnxruntime is not installed.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelImportError(f"{path} cannot be read: {error.strerror}") from error
    check_model(data, file=path)
    return import_checked(data, file=Path(path))


def import_checked(data: bytes, *, file: Path) -> GraphBundle:
    """Make a bundle of bytes that `check_model` has seen: RUNS WHATEVER CODE IS IN THEM.

    Parameters
    ----------
    data : bytes
        The file.
    file : Path
        Where it is from; its name stands in the bundle's card.

    Raises
    ------
    ModelImportError, MissingExtraError
        As `import_sdv`.
    """
    source = {"file": file.name, "sha256": hashlib.sha256(data).hexdigest()}
    return convert(unpickle(data, file=file), source=source)
