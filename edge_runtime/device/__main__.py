"""`python -m edge_runtime.device --config device.toml`: run a device agent until it is stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from edge_runtime.device.config import load_config
from edge_runtime.device.memory import hold_little
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.process import complain, log_to_stderr


def main(arguments: list[str] | None = None) -> int:
    """Run the agent; return the exit code."""
    file = _config_file(sys.argv[1:] if arguments is None else arguments)
    try:
        config = load_config(file)
        log_to_stderr(config.log_level)
        # Before numpy is imported: its thread pools cost memory at import and gain nothing here.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, str(config.engine.threads))
        hold_little()
        from edge_runtime.device.agent import Agent  # noqa: PLC0415 - after the lines above

        Agent(config).run(signals=True)
    except EdgeRuntimeError as error:
        complain(f"edge-runtime device: {error.public}")
        return error.exit_code
    return 0


def _config_file(arguments: Sequence[str]) -> str:
    match arguments:
        case ["--config", file]:
            return file  # as the service is started: argparse would stay for good, with .6 MB
    import argparse  # noqa: PLC0415 - for people: other spellings, help and mistakes

    parser = argparse.ArgumentParser(
        prog="python -m edge_runtime.device",
        description="Learn a generator from local rows and publish private synthetic ones.",
        epilog="example: python -m edge_runtime.device --config device.toml",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the device's device.toml")
    return str(parser.parse_args(arguments).config)


if __name__ == "__main__":
    sys.exit(main())
