"""The whole state of a training run as bytes (safetensors)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge_runtime.errors import TrainingError
from edge_runtime.training.flat import F32

__all__ = ["Checkpoint"]

_TENSORS = ("vector", "first_moment", "second_moment", "average")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State after `step` steps. PRIVATE until the run is complete: it stays on the device.

    Attributes
    ----------
    run : str
        Digest of layout and settings; only the same run is resumed.
    step : int
        Steps done.
    vector, first_moment, second_moment, average : float32 [parameters with masked ones]
        Weights, Adam's moments and the average of the iterates.
    """

    run: str
    step: int
    vector: F32
    first_moment: F32
    second_moment: F32
    average: F32

    def to_bytes(self) -> bytes:
        """Serialise."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        # Header metadata is not read back by safetensors.numpy.load, so the rest are tensors too.
        tensors["step"] = np.array([self.step], dtype=np.int64)
        tensors["run"] = np.frombuffer(self.run.encode(), dtype=np.uint8)
        return bytes(save(tensors))

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Read what `to_bytes` wrote.

        Raises
        ------
        TrainingError
            If the bytes are anything else.
        """
        try:
            tensors = load(data)
            run = tensors["run"].tobytes().decode()
            step = int(tensors["step"][0])
            vectors = {name: tensors[name] for name in _TENSORS}
        except (SafetensorError, KeyError, IndexError, ValueError, TypeError) as error:
            raise TrainingError(f"the checkpoint cannot be read ({error}); start afresh") from error
        size = vectors["vector"].shape
        if any(v.dtype != np.float32 or v.shape != size or v.ndim != 1 for v in vectors.values()):
            raise TrainingError("the checkpoint has tensors of unequal shapes; start afresh")
        return cls(run=run, step=step, **vectors)
