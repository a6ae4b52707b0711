"""What every decoder owes to bytes from outside: a valid object, or one of its typed errors.

In bounded time, in bounded memory, with an error text of bounded length, and never anything else.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from edge_runtime.errors import EdgeRuntimeError

__all__ = ["Broken", "Decoder", "bound_memory", "check", "inputs_of"]

CORPUS = Path(__file__).parent / "corpus"

#: processor time of one input of at most 64 kB; a decoder takes milliseconds
_SECONDS = 4.0
#: an error is a line of a log, however large the message was that it speaks of
_ERROR_CHARS = 8192
#: address space beyond what the process has once everything is imported
_MEMORY_BYTES = 768 << 20


class Broken(AssertionError):  # noqa: N818 - what it says is that the contract is
    """A decoder broke the contract."""


class Decoder(NamedTuple):
    """One way into the program.

    Attributes
    ----------
    name : str
        Of its inputs in the corpus: ``<target>/<name>-<what>``.
    run : callable
        Takes the bytes; what it returns is of no interest.
    errors : tuple of type
        What it may raise.
    mutate : callable, optional
        Changes an input so that it keeps its form, given a source of randomness.
    """

    name: str
    run: Callable[[bytes], object]
    errors: tuple[type[EdgeRuntimeError], ...]
    mutate: Callable[[bytes, Random], bytes] | None = None


def check(decoder: Decoder, data: bytes) -> str:
    """Hold a decoder to the contract for one input.

    Returns
    -------
    str
        Name of the error it raised, or empty.

    Raises
    ------
    Broken
        It took too long, or its error is too long.
    Exception
        Whatever it raised and must not raise.
    """
    start = time.process_time()
    raised = ""
    try:
        decoder.run(data)
    except decoder.errors as error:
        raised = type(error).__name__
        if (length := max(len(str(error)), len(error.public))) > _ERROR_CHARS:
            raise Broken(f"{decoder.name}: an error text of {length} characters") from error
    seconds = time.process_time() - start
    if seconds > _SECONDS:
        raise Broken(f"{decoder.name}: {seconds:.1f} s of processor time for {len(data)} bytes")
    return raised


def bound_memory() -> None:
    """From now on memory beyond the bound is a `MemoryError`, or the end of the process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def inputs_of(target: str, decoders: Sequence[Decoder]) -> list[tuple[int, Path]]:
    """Return the kept inputs of a target, each with the number of the decoder it is for.

    Raises
    ------
    ValueError
        A file is for a decoder that the target does not have.
    """
    number = {decoder.name: index for index, decoder in enumerate(decoders)}
    found = []
    for path in sorted((CORPUS / target).glob("*")):
        name = path.name.partition("-")[0]
        if name not in number:
            raise ValueError(f"{path}: target {target!r} has no decoder {name!r}")
        found.append((number[name], path))
    return found
