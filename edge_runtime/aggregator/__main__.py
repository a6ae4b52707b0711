"""`python -m edge_runtime.aggregator --config aggregator.toml`: serve a fleet until stopped."""

from __future__ import annotations

import argparse
import sys

from edge_runtime.aggregator.config import load_config
from edge_runtime.aggregator.service import run
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.process import complain, log_to_stderr


def main(arguments: list[str] | None = None) -> int:
    """Run the aggregator; the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m edge_runtime.aggregator", description=__doc__)
    parser.add_argument("--config", required=True, help="path of aggregator.toml")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config)
        log_to_stderr(config.log_level, subject="threadName")
        run(config)
    except EdgeRuntimeError as error:
        complain(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
