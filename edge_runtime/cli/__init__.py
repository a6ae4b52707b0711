"""The command line: people's verbs, each a thin layer over the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code: 0, 130 after Ctrl-C, or that of the error (``error.exit_code``).
    """
    from edge_runtime.cli.main import run  # noqa: PLC0415 - importing this package stays light

    return run(list(sys.argv[1:] if arguments is None else arguments))
