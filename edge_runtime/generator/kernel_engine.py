"""The integer network in C, from the base install alone."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from edge_runtime import kernel
from edge_runtime.errors import EngineError, KernelError
from edge_runtime.generator.layout import F32, I32, Layout
from edge_runtime.generator.quantize import check_quantised
from edge_runtime.generator.reference import check_noise

__all__ = ["KernelEngine"]

#: Fewer rows than this are not worth handing to another thread.
_ROWS_PER_THREAD = 1024


class KernelEngine:
    """Draw rows with the C kernel; docs/engines.md says how.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        As in `edge_runtime.generator.quantize.TENSORS`.
    layout : Layout
    threads : int
        Threads that share the rows of a call.

    Raises
    ------
    EngineError
        If the tensors do not fit the layout.
    """

    name = "kernel"

    def __init__(
        self,
        tensors: Mapping[str, npt.NDArray[np.generic]],
        *,
        layout: Layout,
        threads: int = 1,
    ) -> None:
        check_quantised(tensors, layout)
        self.layout = layout
        try:
            self._network: kernel.Network | None = kernel.Network(
                tensors, cardinalities=layout.cardinalities, hidden=layout.hidden
            )
        except KernelError as error:
            raise EngineError(f"the kernel refused the generator: {error}") from error
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def network(self) -> kernel.Network:
        """The loaded network, which also draws its own noise and decodes.

        Raises
        ------
        EngineError
            If the engine is closed.
        """
        if self._network is None:
            raise EngineError("the engine is closed")
        return self._network

    def generate(self, noise: F32) -> I32:
        """See `edge_runtime.generator.engine.Engine.generate`."""
        network = self.network
        if noise.ndim != 2 or noise.dtype != np.float32:
            check_noise(noise, self.layout)
        parts = min(self._threads, len(noise) // _ROWS_PER_THREAD)
        try:
            if self._pool is None or parts < 2:
                return network.codes(noise)
            pieces = np.array_split(noise, parts)
            return np.concatenate(list(self._pool.map(network.codes, pieces)))
        except KernelError:
            # The kernel checks as it reads; which column it was is found here.
            check_noise(noise, self.layout)
            raise

    def close(self) -> None:
        """Free the network."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = self._network = None
