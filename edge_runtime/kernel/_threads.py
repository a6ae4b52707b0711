"""Work on rows in several threads; the kernel works without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from edge_runtime.errors import KernelError

__all__ = ["in_parts"]

#: Parts start at a multiple of this, the kernel's largest group, so that no group is made twice.
_GROUP = 256
_THREADS_LIMIT = 256


def in_parts(
    work: Callable[[int, int], int], rows: int, *, threads: int, least: int, function: str
) -> int:
    """Call `work(first, end)` for parts that cover 0 .. rows, and return the first error code.

    Parameters
    ----------
    work : callable
        Returns an error code of the kernel. Parts must be independent.
    rows : int
        Number of rows.
    threads : int
        Most threads, 1 to 256. Fewer run where parts would be smaller than `least`.
    least : int
        Rows that are worth a thread: starting one takes about 50 microseconds.
    function : str
        Name of the public function, for the message.
    """
    if not 1 <= threads <= _THREADS_LIMIT:
        raise KernelError(f"{function}: threads must be 1 to {_THREADS_LIMIT}, not {threads}")
    parts = max(1, min(threads, rows // least))
    if parts == 1:
        return work(0, rows)
    step = -(-rows // parts)
    step = -(-step // _GROUP) * _GROUP
    edges = [*range(0, rows, step), rows]
    codes = [0] * (len(edges) - 1)

    def run(part: int) -> None:
        codes[part] = work(edges[part], edges[part + 1])

    others = [Thread(target=run, args=(part,)) for part in range(1, len(codes))]
    for thread in others:
        thread.start()
    run(0)
    for thread in others:
        thread.join()
    return next((code for code in codes if code), 0)
