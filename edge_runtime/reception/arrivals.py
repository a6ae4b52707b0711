"""What has arrived and waits for the inbox: bounded, and no device in another's way.

Three rules. A device has a rate, in bytes, with room for a full outbox at once. It has a share of
the places; and where all places are taken, whoever has most of them makes room for who has less.
What is taken is taken from each device in turn.

What is not held is not acknowledged, so an honest device keeps it and sends it again: it loses
time, never a batch. Nothing is read, hashed or written for it, so a flood costs its bytes and
no more.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from edge_runtime.reception.settings import LimitSettings
from edge_runtime.reception.unpacking import Incoming

__all__ = ["Arrivals", "Excess"]

#: what a message costs at least: a commit, a hash and an answer take as long as so many bytes
_LEAST_COST = 16 << 10


class Excess(NamedTuple):
    """What of a device was beyond its rate since the aggregator started."""

    messages: int
    bytes: int


class _Sender:
    """One device: what of it waits, and what it may still send now."""

    def __init__(self, budget_bytes: float, now_s: float) -> None:
        self.waiting: deque[Incoming] = deque()
        self.cost = 0  # of what waits
        self.budget_bytes = budget_bytes
        self.filled_s = now_s


class Arrivals:
    """Takes messages from the link's thread and hands them to the one that unpacks.

    Parameters
    ----------
    limits : LimitSettings
        `queue_messages`, `queue_bytes`, `device_bytes_per_s` and `device_burst_bytes`.
    clock : callable () -> float
        Seconds that never go back.

    Attributes
    ----------
    overflow : int
        Messages for which there was no place, of whatever device.
    """

    def __init__(
        self, limits: LimitSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._clock = clock
        self.overflow = 0
        self._changed = threading.Condition()
        self._senders: dict[str, _Sender] = {}
        # Those of whom something waits, in the order in which it is their turn.
        self._turns: OrderedDict[str, _Sender] = OrderedDict()
        self._messages = self._bytes = 0
        self._excess: dict[str, Excess] = {}

    def __len__(self) -> int:
        """Messages that wait."""
        return self._messages

    def within_rate(self, device: str, size_bytes: int) -> bool:
        """Whether a device may send so much now; what it may is then less by that."""
        with self._changed:
            now_s, limits = self._clock(), self._limits
            sender = self._senders.get(device)
            if sender is None:
                sender = self._senders[device] = _Sender(limits.device_burst_bytes, now_s)
            earned = (now_s - sender.filled_s) * limits.device_bytes_per_s
            sender.filled_s = now_s
            sender.budget_bytes = min(limits.device_burst_bytes, sender.budget_bytes + earned)
            cost = _cost(size_bytes)
            if cost > sender.budget_bytes:
                self._note(device, size_bytes)
                return False
            sender.budget_bytes -= cost
            return True

    def put(self, message: Incoming, *, timeout: float = 0.0) -> bool:
        """Hold a message, if it is within its device's rate and share; return whether it is.

        Waits up to `timeout` seconds for a place before anybody has to make room: meanwhile the
        broker keeps what comes next, where otherwise much would have to come again.
        """
        if not self.within_rate(message.device, len(message.payload)):
            return False
        with self._changed:
            sender = self._senders[message.device]
            size = len(message.payload)
            self._changed.wait_for(lambda: self._has_room(size), timeout)
            while not self._has_room(size):
                widest = max(self._turns, key=lambda device: self._turns[device].cost)
                other = self._turns[widest]
                self.overflow += 1
                if other is sender or other.cost <= sender.cost + _cost(size):
                    return False
                # Its newest: what has waited longest has its turn soonest.
                self._forget(widest, other, other.waiting.pop())
            sender.waiting.append(message)
            sender.cost += _cost(size)
            self._messages += 1
            self._bytes += size
            self._turns.setdefault(message.device, sender)
            self._changed.notify_all()
            return True

    def take(self, most: int, *, timeout: float) -> list[Incoming]:
        """Take the next messages, each of the device whose turn it is.

        Parameters
        ----------
        most : int
            No more than so many.
        timeout : float
            Seconds to wait for the first; what comes behind it is not waited for.

        Returns
        -------
        list of Incoming
            Empty if nothing arrived in time.
        """
        taken: list[Incoming] = []
        with self._changed:
            self._changed.wait_for(lambda: self._turns, timeout)
            while self._turns and len(taken) < most:
                device, sender = next(iter(self._turns.items()))
                taken.append(sender.waiting.popleft())
                self._turns.move_to_end(device)
                self._forget(device, sender, taken[-1])
            self._changed.notify_all()
        return taken

    def excess(self) -> dict[str, Excess]:
        """Return what was beyond its rate, by device."""
        with self._changed:
            return dict(self._excess)

    def _has_room(self, size: int) -> bool:
        fits = self._bytes + size <= self._limits.queue_bytes or not self._messages
        return self._messages < self._limits.queue_messages and fits

    def _forget(self, device: str, sender: _Sender, message: Incoming) -> None:
        size = len(message.payload)
        sender.cost -= _cost(size)
        self._messages -= 1
        self._bytes -= size
        if not sender.waiting:
            del self._turns[device]

    def _note(self, device: str, size: int) -> None:
        before = self._excess.get(device, Excess(0, 0))
        self._excess[device] = Excess(before.messages + 1, before.bytes + size)


def _cost(size_bytes: int) -> int:
    return max(size_bytes, _LEAST_COST)
