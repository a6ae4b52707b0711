"""The reception's process; started by the aggregator, which hands it one end of a socket pair."""

from __future__ import annotations

import os
import signal
import socket
import sys

from edge_runtime.errors import ConfigError, EdgeRuntimeError
from edge_runtime.process import complain, log_to_stderr
from edge_runtime.reception.channel import Channel, ClosedError
from edge_runtime.reception.frames import Hello, decode, encode
from edge_runtime.reception.receiver import Receiver
from edge_runtime.reception.settings import ReceptionSettings

#: what a process ends with after a fault of its own (sysexits.h: EX_SOFTWARE)
_FAULT = 70


def main(arguments: list[str]) -> int:
    """Serve until the aggregator says that it is enough, or is gone; the process's exit code."""
    try:
        (number,) = arguments
        end = socket.socket(fileno=int(number))
    except (ValueError, OSError):
        complain("error: the aggregator starts this itself: python -m edge_runtime.aggregator")
        return ConfigError.exit_code
    # Ctrl-C and systemd's SIGTERM reach all processes: the aggregator says when it is time.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    channel = Channel(end)
    receiver = None
    try:
        settings = decode(channel.receive(), ReceptionSettings)
        log_to_stderr(settings.log_level, subject="threadName")
        try:
            receiver = Receiver(settings, channel)
        except EdgeRuntimeError as error:
            channel.send(encode(Hello(problem=str(error))))
            return error.exit_code
        channel.send(encode(Hello()))
        receiver.serve()
    except ClosedError:
        # At once and without a farewell: the broker is to publish the will.
        os._exit(_FAULT if receiver is not None and receiver.failed else 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
