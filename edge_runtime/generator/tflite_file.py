"""A .tflite file written table by table, without TensorFlow.

The file is a flatbuffer of TensorFlow Lite's schema, version 3; the package ``tflite`` holds that
schema's field numbers as plain functions and weighs 1 MB. Constants are aligned to 16 bytes, which
the schema asks for (``force_align``) and runtimes rely on, and their places in the file are
remembered, so that a device can write others over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import MissingExtraError

__all__ = ["ModelWriter"]

_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_ALIGNMENT = 16
#: Codes above this stand in the newer field alone; the older one then holds this mark.
_OLD_CODES = 127
_TYPES = {"float32": "FLOAT32", "int32": "INT32", "int8": "INT8", "bool": "BOOL"}


class ModelWriter:
    """Collects tensors and operators of one graph, in the order they are run.

    Tensors are numbers. Equal calls give equal bytes.

    Raises
    ------
    MissingExtraError
        If the tflite package is not installed.
    """

    def __init__(self) -> None:
        try:
            import flatbuffers  # noqa: PLC0415 - only where graphs are built, never on a device
            import tflite  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError("tflite", "aggregator") from error
        self._schema: Any = tflite
        self._builder: Any = flatbuffers.Builder(1 << 16)
        self._tensors: list[int] = []
        self._operators: list[int] = []
        self._codes: dict[tuple[str, int], int] = {}
        # By convention the first buffer is empty: tensors that are computed refer to it.
        self._buffers: list[int] = [self._table("Buffer")]
        self._vectors: dict[tuple[int, ...], int] = {}
        self._unscaled = 0
        #: Places of the constants: distance from the end of the file, by tensor.
        self._ends: dict[int, int] = {}

    # -- flatbuffer pieces --------------------------------------------------------------------

    def _table(self, kind: str, **fields: float) -> int:
        getattr(self._schema, f"{kind}Start")(self._builder)
        for name, value in fields.items():
            getattr(self._schema, f"{kind}Add{name}")(self._builder, value)
        end: int = getattr(self._schema, f"{kind}End")(self._builder)
        return end

    def _integers(self, values: Sequence[int]) -> int:
        key = tuple(values)
        if key not in self._vectors:
            array = np.asarray(key, np.int32)
            self._vectors[key] = self._builder.CreateNumpyVector(array)
        return self._vectors[key]

    def _references(self, tables: Sequence[int]) -> int:
        self._builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            self._builder.PrependUOffsetTRelative(table)
        end: int = self._builder.EndVector()
        return end

    def _data(self, data: bytes) -> int:
        builder = self._builder
        builder.StartVector(1, len(data), _ALIGNMENT)
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        end: int = builder.EndVector()
        return end

    # -- tensors and operators ----------------------------------------------------------------

    def tensor(self, shape: Sequence[int], *, dtype: str = "float32", name: str = "") -> int:
        """Add a tensor that is computed, or that a caller sets.

        Parameters
        ----------
        shape : sequence of int
            -1 first: as many rows as the caller chooses, 1 until then.
        dtype : str
            ``float32``, ``int32`` or ``int8``.
        name : str
            Left out when empty; names cost space.
        """
        fields: dict[str, int] = {}
        if -1 in shape:
            fields["ShapeSignature"] = self._integers(shape)
        return self._add([abs(size) for size in shape], dtype, name, 0, fields)

    def constant(self, value: npt.NDArray[np.generic], *, name: str = "") -> int:
        """Add a constant; int8 ones stand for their own value (scale 1)."""
        data = np.ascontiguousarray(value).tobytes()
        vector = self._data(data)
        fields: dict[str, int] = {}
        if value.dtype == np.int8:
            fields["Quantization"] = self._unit_scale()
        self._buffers.append(self._table("Buffer", Data=vector))
        index = self._add(value.shape, value.dtype.name, name, len(self._buffers) - 1, fields)
        # A vector starts with its length in four bytes.
        self._ends[index] = vector - 4
        return index

    def _add(
        self, shape: Sequence[int], dtype: str, name: str, buffer: int, fields: dict[str, int]
    ) -> int:
        fields["Shape"] = self._integers(shape)
        if name:
            fields["Name"] = self._builder.CreateString(name)
        kind = getattr(self._schema.TensorType, _TYPES[dtype])
        self._tensors.append(self._table("Tensor", Type=kind, Buffer=buffer, **fields))
        return len(self._tensors) - 1

    def _unit_scale(self) -> int:
        if not self._unscaled:
            scale = self._builder.CreateNumpyVector(np.ones(1, np.float32))
            zero = self._builder.CreateNumpyVector(np.zeros(1, np.int64))
            self._unscaled = self._table("QuantizationParameters", Scale=scale, ZeroPoint=zero)
        return self._unscaled

    def operator(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        version: int = 1,
        options: str = "",
        **fields: float | Sequence[int],
    ) -> None:
        """Add an operator.

        Parameters
        ----------
        kind : str
            Name in the schema's ``BuiltinOperator``.
        inputs, outputs : sequence of int
            Tensors; -1 for an optional input that is left out.
        version : int
            Version of the operator, as the runtime's register of operators counts.
        options : str
            Table of its options; `fields` are that table's.
        """
        key = (kind, version)
        self._codes.setdefault(key, len(self._codes))
        set_options: dict[str, float] = {}
        if options:
            plain = {
                n: self._integers(v) if isinstance(v, Sequence) else v for n, v in fields.items()
            }
            set_options = {
                "BuiltinOptionsType": getattr(self._schema.BuiltinOptions, options),
                "BuiltinOptions": self._table(options, **plain),
            }
        self._operators.append(
            self._table(
                "Operator",
                OpcodeIndex=self._codes[key],
                Inputs=self._integers(inputs),
                Outputs=self._integers(outputs),
                **set_options,
            )
        )

    def finish(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        description: str,
        metadata: Mapping[str, bytes],
    ) -> tuple[bytes, dict[int, int]]:
        """Write the file.

        Returns
        -------
        bytes
        dict of int to int
            Where the bytes of each constant begin, by tensor.
        """
        builder = self._builder
        codes = []
        for kind, version in self._codes:
            code = getattr(self._schema.BuiltinOperator, kind)
            old = min(code, _OLD_CODES)
            codes.append(
                self._table(
                    "OperatorCode", DeprecatedBuiltinCode=old, Version=version, BuiltinCode=code
                )
            )
        notes = []
        for name, data in metadata.items():
            self._buffers.append(self._table("Buffer", Data=self._data(data)))
            text = builder.CreateString(name)
            notes.append(self._table("Metadata", Name=text, Buffer=len(self._buffers) - 1))
        graph = self._table(
            "SubGraph",
            Tensors=self._references(self._tensors),
            Inputs=self._integers(inputs),
            Outputs=self._integers(outputs),
            Operators=self._references(self._operators),
        )
        model = self._table(
            "Model",
            Version=_SCHEMA_VERSION,
            OperatorCodes=self._references(codes),
            Subgraphs=self._references([graph]),
            Description=builder.CreateString(description),
            Buffers=self._references(self._buffers),
            Metadata=self._references(notes),
        )
        builder.Finish(model, _IDENTIFIER)
        data = bytes(builder.Output())
        return data, {tensor: len(data) - end for tensor, end in self._ends.items()}
