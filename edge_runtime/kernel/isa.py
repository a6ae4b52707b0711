"""Which of the kernel's loops run: one set per instruction set, all giving the same bits."""

from __future__ import annotations

import os

from edge_runtime.errors import KernelError
from edge_runtime.kernel._call import ffi, lib

__all__ = ["ISA_VARIABLE", "available_isas", "isa", "lanes", "select_isa"]

#: environment variable that forces an instruction set, read when the kernel is imported
ISA_VARIABLE = "EDGE_RUNTIME_ISA"


def isa() -> str:
    """Return the instruction set whose loops run.

    Returns
    -------
    str
        "x86-64" (SSE2), "x86-64-v3" (AVX2), "x86-64-v4" (AVX-512), "aarch64" (NEON), "arm" or
        "other".
    """
    return _text(lib.er_isa())


def lanes() -> str:
    """Return the vectors of `isa` in short: "portable", "avx2" or "avx512"."""
    return _text(lib.er_lanes_name())


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that this processor can run, slowest first.

    Returns
    -------
    tuple of str
        What `select_isa` and the environment variable `EDGE_RUNTIME_ISA` accept here.
    """
    names: list[str] = []
    while (name := lib.er_isa_name(len(names))) != ffi.NULL:
        names.append(_text(name))
    return tuple(names)


def select_isa(name: str | None) -> None:
    """Force an instruction set for this process; results do not change, only the speed does.

    Meant for tests and measurements, before other threads call the kernel.

    Parameters
    ----------
    name : str or None
        One of `available_isas`; None for the fastest.

    Raises
    ------
    KernelError
        If this processor or this build cannot run it; the choice is then as before.
    """
    code = lib.er_isa_select(ffi.NULL if name is None else name.encode())
    if code != lib.ER_OK:
        raise KernelError(
            f"instruction set {name!r} cannot run here; this processor and this build have "
            f"{', '.join(available_isas())}"
        )


def select_from_environment() -> None:
    """Follow `EDGE_RUNTIME_ISA` where it is set and not empty."""
    name = os.environ.get(ISA_VARIABLE)
    if name:
        try:
            select_isa(name)
        except KernelError as error:
            raise KernelError(
                f"{ISA_VARIABLE}: {error}; unset it for the fastest of them"
            ) from None


def _text(pointer: object) -> str:
    return str(ffi.string(pointer).decode())
