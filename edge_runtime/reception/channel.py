"""Frames between two processes of one machine, over a pair of sockets; many threads may send."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

__all__ = ["Channel", "ClosedError"]

_SIZE = struct.Struct("<Q")


class ClosedError(Exception):
    """The other side is gone."""


class Channel:
    """One end.

    Parameters
    ----------
    end : socket.socket
        Of a pair, blocking; is owned from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._sending = threading.Lock()

    def send(self, frame: bytes) -> None:
        """Send a frame; waits while the other side does not read.

        Raises
        ------
        ClosedError
            Nobody will read it.
        """
        with self._sending:
            try:
                self._end.sendall(_SIZE.pack(len(frame)))
                self._end.sendall(frame)
            except OSError as error:
                raise ClosedError from error

    def receive(self) -> bytearray:
        """Wait for the next frame; by one thread.

        Raises
        ------
        ClosedError
            There will be none.
        """
        (size,) = _SIZE.unpack(self._read(_SIZE.size))
        return self._read(size)

    def close(self) -> None:
        """Hang up: whoever waits on either side learns of it."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        view, begins = memoryview(data), 0
        while begins < size:
            try:
                got = self._end.recv_into(view[begins:])
            except OSError as error:
                raise ClosedError from error
            if not got:
                raise ClosedError
            begins += got
        return data
