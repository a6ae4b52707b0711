"""The command line: people's verbs, each a thin layer over the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edge_runtime.errors import MissingExtraError

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
    try:
        from edge_runtime.cli.main import run  # noqa: PLC0415 - the base install may be damaged

        return run(list(sys.argv[1:] if arguments is None else arguments))
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        missing = MissingExtraError(error.name, "aggregator")
        sys.stderr.write(
            f"error: {missing}\na device needs neither: python -m edge_runtime.device --help\n"
        )
        return missing.exit_code
