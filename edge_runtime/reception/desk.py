"""The reception as the aggregator sees it: another process that receives and publishes for it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

from edge_runtime.errors import AggregatorError, ConfigError
from edge_runtime.messages import Ack, encode_ack
from edge_runtime.reception.channel import Channel, ClosedError
from edge_runtime.reception.frames import (
    Answers,
    Close,
    Collect,
    Command,
    Delivery,
    Hello,
    Publish,
    Start,
    decode,
    encode,
)
from edge_runtime.reception.settings import ReceptionSettings
from edge_runtime.reception.unpacking import Parcel

__all__ = ["Reception"]

#: for the farewell to reach the broker, and what was being written to be finished
_END_S = 15.0


class Reception:
    """Starts the process and speaks to it. It ends with its aggregator, however that ends.

    `publish` and `answer` may be called from several threads, `receive` from one.

    Parameters
    ----------
    settings : ReceptionSettings
        What it is told first.
    """

    def __init__(self, settings: ReceptionSettings) -> None:
        mine, its = socket.socketpair()
        # Modules are looked for where this process found them, not in the current directory.
        how = "-I" if sys.flags.isolated else "-P"
        with its:
            self._process = subprocess.Popen(  # noqa: S603 - nobody else has a say in it
                [sys.executable, how, "-m", "edge_runtime.reception", str(its.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
            )
        self._channel = Channel(mine)
        self._send(settings)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def start(self) -> None:
        """Let it connect; see `publish` for errors."""
        self._send(Start())

    def check(self) -> None:
        """Wait until it has looked at its settings.

        Raises
        ------
        ConfigError
            It cannot use them.
        AggregatorError
            It has ended.
        """
        problem = decode(self._receive(), Hello).problem
        if problem:
            raise ConfigError(problem)

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish a message, retained; see `Link.publish`.

        Raises
        ------
        AggregatorError
            The process has ended.
        """
        self._send(Publish(topic, payload))

    def collect(self, most: int) -> None:
        """Ask for one delivery of at most `most` messages; see `publish` for errors."""
        self._send(Collect(most))

    def receive(self) -> Delivery:
        """Wait for a delivery that was asked for, a tenth of a second where there is nothing.

        Raises
        ------
        AggregatorError
            The process has ended.
        """
        return decode(self._receive(), Delivery)

    def answer(self, parcels: Sequence[Parcel], acks: Sequence[Ack]) -> None:
        """Acknowledge messages, one each; see `publish` for errors."""
        pairs = zip(parcels, acks, strict=True)
        self._send(Answers([(one.device, one.key, encode_ack(ack)) for one, ack in pairs]))

    def close(self, *, farewell: bytes | None = None) -> None:
        """Publish a last status, None for what the will says, and end the process."""
        try:
            self._channel.send(encode(Close(farewell)))
            self._process.wait(_END_S)
        except ClosedError:
            pass
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._channel.close()
        self._process.wait()

    def _send(self, frame: Command | ReceptionSettings) -> None:
        try:
            self._channel.send(encode(frame))
        except ClosedError:
            raise self._ended() from None

    def _receive(self) -> bytearray:
        try:
            return self._channel.receive()
        except ClosedError:
            raise self._ended() from None

    def _ended(self) -> AggregatorError:
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return AggregatorError("the process that receives messages does not answer any more")
        how = (
            f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        )
        return AggregatorError(
            f"the process that receives messages {how}; nothing acknowledged is lost, start the "
            "aggregator again"
        )
