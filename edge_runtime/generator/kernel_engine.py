"""The integer network in C, from the base install alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_runtime import kernel
from edge_runtime.errors import EngineError, KernelError
from edge_runtime.generator.layout import F32, I32, Layout
from edge_runtime.generator.quantize import check_quantised
from edge_runtime.generator.reference import check_noise

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["KernelEngine"]

#: Fewer rows than this are not worth handing to another thread.
_ROWS_PER_THREAD = 1024

#: SCALE_LIMIT of native/src/generator.c
_SCALE_LIMIT = 2.0**60


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
        self._pool = _pool(threads) if threads > 1 else None

    @staticmethod
    def supports(tensors: Mapping[str, npt.NDArray[np.generic]]) -> bool:
        """Whether the kernel can run these tensors, which fit their layout.

        It refuses scales beyond any that a trained network has, so that none of its sums can be
        infinite or NaN, which processors do not order alike.
        """
        floats = ("rescale1", "shift1", "rescale2", "skip2", "scale3")
        return all(
            float(np.abs(np.asarray(tensors[name], np.float64)).max()) < _SCALE_LIMIT
            for name in floats
        )

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
        codes = np.empty(noise.shape, np.int32)

        def part(first: int, end: int) -> None:
            network.codes(noise[first:end], codes[first:end])

        try:
            self._spread(part, len(noise))
        except KernelError:
            # The kernel checks as it reads; which column it was is found here.
            check_noise(noise, self.layout)
            raise
        return codes

    def draw(
        self, rows: int, *, key: bytes, stream: int, offset: int, forced: I32 | None = None
    ) -> I32:
        """Draw noise and rows in one go; see `edge_runtime.kernel.Network.draw`.

        Raises
        ------
        EngineError
            If the engine is closed.
        KernelError
            If anything does not fit.
        """
        network = self.network
        codes = np.empty((rows, self.layout.columns), np.int32)

        def part(first: int, end: int) -> None:
            network.draw(
                end - first,
                key=key,
                stream=stream,
                offset=offset + first,
                forced=None if forced is None else forced[:, first:end],
                codes=codes[first:end],
            )

        self._spread(part, rows)
        return codes

    def draw_into(
        self,
        outputs: Sequence[kernel.Output],
        rows: int,
        *,
        key: bytes,
        stream: int,
        decode_stream: int,
        offset: int,
        forced: I32 | None = None,
    ) -> None:
        """Draw noise and rows and decode them, in one go.

        Parameters and errors are those of `edge_runtime.kernel.Network.draw`, and an `EngineError`
        if the engine is closed.
        """
        network = self.network

        def part(first: int, end: int) -> None:
            network.draw(
                end - first,
                key=key,
                stream=stream,
                decode_stream=decode_stream,
                offset=offset + first,
                forced=None if forced is None else forced[:, first:end],
                outputs=[output.part(first, end) for output in outputs],
            )

        self._spread(part, rows)

    def _spread(self, part: Callable[[int, int], None], rows: int) -> None:
        """Call `part` for ranges of rows that together are all, on as many threads as pay."""
        count = min(self._threads, rows // _ROWS_PER_THREAD)
        if self._pool is None or count < 2:
            part(0, rows)
            return
        # Borders at whole parts of the kernel's, so that no two threads draw the same noise.
        step = -(-rows // (count * _ROWS_PER_THREAD)) * _ROWS_PER_THREAD
        starts = range(0, rows, step)
        list(self._pool.map(part, starts, [min(rows, start + step) for start in starts]))

    def close(self) -> None:
        """Free the network."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = self._network = None


def _pool(threads: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a device has one thread

    return ThreadPoolExecutor(threads)
