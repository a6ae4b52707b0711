"""The generator in C: int8 weights in, codes or decoded columns out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import KernelError
from edge_runtime.kernel._call import check, ffi, key_bytes, lib, pointer

__all__ = ["Network", "Output", "network_isa", "network_isas"]

_FIELDS = (
    "w1",
    "w2",
    "w3",
    "b2",
    "b3",
    "rescale1",
    "shift1",
    "rescale2",
    "skip2",
    "scale3",
)
_TYPES = {"i1": ("int8_t *", np.int8), "i4": ("int32_t *", np.int32), "f4": ("float *", np.float32)}
_LIMIT = 1 << 40

_VARIABLE = "EDGE_RUNTIME_NETWORK_ISA"
_FAMILY_VARIABLE = "EDGE_RUNTIME_ISA"

#: What the names that force the other loops of the kernel mean here: the widest loops that every
#: processor of the family has, without the options that only some of them have.
_FAMILIES = {
    "x86-64": "sse2",
    "x86-64-v3": "avx2",
    "x86-64-v4": "avx512",
    "aarch64": "neon",
    "arm": "portable",
}

_KINDS = {
    "nothing": lib.ER_OUT_NOTHING,
    "codes": lib.ER_OUT_CODES,
    "bytes": lib.ER_OUT_BYTES,
    "points": lib.ER_OUT_POINTS,
    "linear_f64": lib.ER_OUT_LINEAR_F64,
    "linear_i64": lib.ER_OUT_LINEAR_I64,
}
_DTYPES: Mapping[str, tuple[type[np.generic], ...]] = {
    "codes": (np.int32,),
    "bytes": (np.int8,),
    "points": (np.int64, np.float64),
    "linear_f64": (np.float64,),
    "linear_i64": (np.int64,),
}


@dataclass(frozen=True, kw_only=True)
class Output:
    """What becomes of the codes of one column.

    Attributes
    ----------
    kind : str
        ``nothing``; ``codes``: int32; ``bytes``: int8 ``table[code]``; ``points``: int64 or
        float64, one of the code's equally likely values, as many as a power of two;
        ``linear_f64``, ``linear_i64``: as `decode_linear`.
    table : ndarray, optional
        [bins], or [bins, slots] of points or knots. The last code may be a missing value, then
        points have a bin for it and knots have not.
    out : ndarray, optional
        [rows], contiguous, of the kind's dtype.
    missing : bool ndarray, optional
        [rows], contiguous: set where the code is the column's last one.
    """

    kind: Literal["nothing", "codes", "bytes", "points", "linear_f64", "linear_i64"]
    table: NDArray[Any] | None = None
    out: NDArray[Any] | None = None
    missing: NDArray[np.bool_] | None = None

    def part(self, first: int, end: int) -> Output:
        """Return the same for a range of the rows."""
        return replace(
            self,
            out=None if self.out is None else self.out[first:end],
            missing=None if self.missing is None else self.missing[first:end],
        )


def network_isas() -> tuple[str, ...]:
    """Return the instruction sets of the network's loops that run here, fastest first."""
    names: list[str] = []
    while (name := lib.er_generator_isa(len(names))) != ffi.NULL:
        names.append(str(ffi.string(name).decode()))
    return tuple(names)


def network_isa() -> str:
    """Return the instruction set that new networks use.

    The fastest, unless the environment says otherwise. ``EDGE_RUNTIME_NETWORK_ISA`` names one of
    `network_isas`. ``EDGE_RUNTIME_ISA``, which forces the kernel's other loops, names a processor
    family; what only some processors of the family have is then left out here.

    Raises
    ------
    KernelError
        If this processor cannot run what is asked for.
    """
    names = network_isas()
    families = {family: name for family, name in _FAMILIES.items() if name in names}
    if wanted := os.environ.get(_VARIABLE, ""):
        return _known(_VARIABLE, wanted, {name: name for name in names})
    if wanted := os.environ.get(_FAMILY_VARIABLE, ""):
        return _known(_FAMILY_VARIABLE, wanted, families)
    return names[0]


def _known(variable: str, wanted: str, possible: Mapping[str, str]) -> str:
    if wanted not in possible:
        raise KernelError(
            f"{variable}={wanted} cannot run here; this processor has {', '.join(possible)}"
        )
    return possible[wanted]


class Network:
    """A loaded generator; any number of threads may use it at once.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        The integer network of docs/bundle.md. Everything is copied.
    cardinalities : sequence of int
        Codes per column.
    hidden : int
        Units of each hidden layer.
    isa : str, optional
        One of `network_isas`; the one of `network_isa` when absent. All give the same codes.

    Raises
    ------
    KernelError
        If sizes do not fit, a scale is 2^60 or more, or the instruction set is not there.
    """

    def __init__(
        self,
        tensors: Mapping[str, NDArray[np.generic]],
        *,
        cardinalities: Sequence[int],
        hidden: int,
        isa: str | None = None,
    ) -> None:
        self.cardinalities = tuple(cardinalities)
        self.isa = network_isa() if isa is None else isa
        v = sum(self.cardinalities)
        shapes: dict[str, tuple[int, ...]] = {
            "w1": (v, hidden),
            "w2": (hidden, hidden),
            "w3": (hidden, v),
        }
        shapes |= dict.fromkeys(("b3", "scale3"), (v,))
        raw = ffi.new("er_tensors *", {"logits": v})
        kept = []
        for name in _FIELDS:
            dtype = "i1" if name[0] == "w" else "i4" if name[0] == "b" else "f4"
            cast, kind = _TYPES[dtype]
            array = np.ascontiguousarray(tensors[name])
            if array.dtype != kind or array.shape != shapes.get(name, (hidden,)):
                raise KernelError(
                    f"network: {name} is {array.dtype} {list(array.shape)}, expected "
                    f"{np.dtype(kind)} {list(shapes.get(name, (hidden,)))}"
                )
            kept.append(array)
            setattr(raw, name, ffi.cast(cast, array.ctypes.data))
        sizes = ffi.new("int32_t[]", self.cardinalities)
        made = ffi.new("er_generator **")
        code = lib.er_generator_new(made, self.isa.encode(), sizes, len(sizes), hidden, raw)
        check(code, "network")
        self._raw: Any = ffi.gc(made[0], lib.er_generator_free)

    def codes(self, noise: NDArray[np.float32], out: NDArray[np.int32]) -> None:
        """Turn noise into codes.

        Parameters
        ----------
        noise : float32 [rows, columns]
            In [0, 1), or 1 + code to force a code.
        out : int32 [rows, columns]
            C-contiguous; unchanged on an error.

        Raises
        ------
        KernelError
            If either array is anything else.
        """
        if noise.dtype != np.float32 or noise.shape[1:] != (len(self.cardinalities),):
            raise KernelError(f"network: noise is {noise.dtype} of shape {noise.shape}")
        noise = np.ascontiguousarray(noise)
        self._check_codes(out, len(noise))
        check(
            lib.er_generator_codes(self._raw, pointer(out), pointer(noise), len(noise)), "network"
        )

    def draw(
        self,
        rows: int,
        *,
        key: bytes,
        stream: int = 0,
        offset: int = 0,
        forced: NDArray[np.int32] | None = None,
        codes: NDArray[np.int32] | None = None,
        outputs: Sequence[Output] | None = None,
        decode_stream: int = 0,
    ) -> None:
        """Draw noise, sample, and decode, a part that stays in cache at a time.

        Parameters
        ----------
        rows : int
        key : bytes
            32 bytes, public.
        stream, offset : int
            Row i takes the uniform numbers from ``(offset + i) * columns`` on of the stream.
        forced : int32 [k, rows], optional
            Codes of the k leading columns.
        codes : int32 [rows, columns], optional
            C-contiguous, filled.
        outputs : sequence of Output, optional
            One per column, filled. The position inside a bin of row i and column c is
            number ``offset + i`` of stream ``decode_stream + c``.

        Raises
        ------
        KernelError
            If anything does not fit; what is filled is then worthless.
        """
        key = key_bytes(key, "network")
        for what, value, limit in (
            ("rows", rows, _LIMIT),
            ("offset", offset, _LIMIT),
            ("stream", stream, 1 << 56),
            ("decode_stream", decode_stream, (1 << 56) - len(self.cardinalities)),
        ):
            if not 0 <= value < limit:
                raise KernelError(f"network: {what} {value} is outside 0..{limit - 1}")
        raw = ffi.new("er_draw *", {"rows": rows, "offset": offset, "stream": stream})
        held = ffi.from_buffer("uint8_t[]", key)
        raw.key, raw.key_bytes, raw.decode_stream = held, len(key), decode_stream
        if forced is not None and len(forced):
            if forced.dtype != np.int32 or forced.ndim != 2 or forced.shape[1] != rows:
                raise KernelError(f"network: forced codes are {forced.dtype} {forced.shape}")
            forced = np.ascontiguousarray(forced)
            raw.forced, raw.forced_columns = pointer(forced), len(forced)
        table = ffi.NULL
        if codes is not None:
            self._check_codes(codes, rows)
            table = pointer(codes)
        filled, _kept = (ffi.NULL, None) if outputs is None else _filled(outputs, rows)
        count = 0 if outputs is None else len(outputs)
        check(lib.er_generator_rows(self._raw, raw, table, filled, count), "network")

    def _check_codes(self, codes: NDArray[np.int32], rows: int) -> None:
        shape = (rows, len(self.cardinalities))
        fits = codes.dtype == np.int32 and codes.shape == shape
        if not (fits and codes.flags.c_contiguous and codes.flags.writeable):
            raise KernelError(f"network: codes are {codes.dtype} {codes.shape}, expected {shape}")


def _filled(outputs: Sequence[Output], rows: int) -> tuple[Any, list[NDArray[Any]]]:
    """Return outputs as C sees them, and the tables to keep alive."""
    raw = ffi.new("er_output[]", len(outputs))
    kept = []
    for item, output in zip(raw, outputs, strict=True):
        item.kind = _KINDS[output.kind]
        if output.missing is not None:
            _written(output.missing, rows, np.bool_)
            item.missing = ffi.cast("uint8_t *", output.missing.ctypes.data)
        if output.kind == "nothing":
            continue
        if output.out is None or (output.table is None and output.kind != "codes"):
            raise KernelError(f"network: an output of kind {output.kind} lacks an array")
        _written(output.out, rows, *_DTYPES[output.kind])
        item.out = ffi.cast("void *", output.out.ctypes.data)
        if output.table is not None and output.kind != "codes":
            table = np.ascontiguousarray(output.table)
            held = np.float64 if output.kind.startswith("linear") else output.out.dtype
            if table.dtype != held or table.ndim not in (1, 2):
                raise KernelError(f"network: a table of {table.dtype} for {output.kind}")
            kept.append(table)
            item.table = ffi.cast("void *", table.ctypes.data)
            item.bins, item.slots = len(table), table.size // max(1, len(table))
    return raw, kept


def _written(array: NDArray[Any], rows: int, *dtypes: type[np.generic]) -> None:
    if (
        array.shape != (rows,)
        or array.dtype.type not in dtypes
        or not (array.flags.c_contiguous and array.flags.writeable)
    ):
        raise KernelError(f"network: an output is {array.dtype} of shape {array.shape}")
