"""What a pickle would import, read without unpickling it.

Unpickling calls whatever the file names. The names can be listed first, because the format is a
list of instructions; the list is no proof of harmlessness: an expected function (torch's loader of
storages) may be given bytes that hold another pickle.
"""

from __future__ import annotations

import pickletools
from collections import deque
from typing import NamedTuple

from edge_runtime.errors import ModelImportError

__all__ = ["SUPPORTED", "Names", "list_names"]

#: what can be imported
SUPPORTED = ("sdv.single_table.ctgan.CTGANSynthesizer", "sdv.single_table.ctgan.TVAESynthesizer")

#: packages whose names a synthesizer's file is made of
_EXPECTED = frozenset(
    {"_codecs", "collections", "copyreg", "ctgan", "dateutil", "datetime", "faker", "numpy"}
    | {"pandas", "pytz", "random", "rdt", "scipy", "sdv", "sklearn", "torch"}
)
#: of packages in which eval, exec or functions out of bytes live as well, these names alone
_HARMLESS = frozenset(
    {"builtins." + name for name in ("bytearray", "complex", "object", "range", "set", "slice")}
    | {"cloudpickle.cloudpickle._builtin_type"}
)


class Names(NamedTuple):
    """What a pickle names.

    Attributes
    ----------
    first : str
        ``module.name`` of the first class: what the file is a pickle of.
    different : int
        Different names.
    unexpected : tuple of str
        Those that a synthesizer's file has no need of, sorted.
    """

    first: str
    different: int
    unexpected: tuple[str, ...]


def list_names(data: bytes, *, file: object) -> Names:
    """List what unpickling would import. Nothing is imported or called.

    Parameters
    ----------
    data : bytes
        The file.
    file : object
        Its path, for messages.

    Raises
    ------
    ModelImportError
        The bytes are not a pickle, or one that names nothing.
    """
    found: dict[str, None] = {}
    texts: deque[str | None] = deque(maxlen=2)  # pushed last; None for anything but a text
    memo: dict[int, str | None] = {}
    try:
        for operation, argument, _ in pickletools.genops(data):
            name = operation.name
            if name in ("FRAME", "PROTO"):
                continue
            if name in ("GLOBAL", "INST"):
                found[str(argument).replace(" ", ".", 1)] = None
                texts.append(None)
            elif name == "STACK_GLOBAL":
                found[".".join(text or "?" for text in texts)] = None
                texts.append(None)
            elif name == "MEMOIZE":
                memo[len(memo)] = texts[-1] if texts else None
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[int(argument or 0)] = texts[-1] if texts else None
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                texts.append(memo.get(int(argument or 0)))
            else:
                texts.append(argument if isinstance(argument, str) else None)
    # Not only ValueError: what it raises for damaged bytes depends on the instruction.
    except Exception as error:
        kind = "a zip archive, as torch.save writes it," if data[:2] == b"PK" else "no pickle"
        raise ModelImportError(
            f"{file} is {kind} and cannot be read ({error}); expected is the file that an SDV "
            "synthesizer's save(path) writes"
        ) from error
    if not found:
        raise ModelImportError(
            f"{file} is a pickle of plain values, not of a synthesizer; expected is the file that "
            "an SDV synthesizer's save(path) writes"
        )
    return Names(
        first=next(iter(found)),
        different=len(found),
        unexpected=tuple(sorted(name for name in found if not _expected(name))),
    )


def _expected(name: str) -> bool:
    return name in _HARMLESS or name.partition(".")[0] in _EXPECTED
