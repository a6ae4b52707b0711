"""What a link listens to, and which subscriptions deserve a second request.

A broker may confirm a retained message before it has stored it (nats-server does, for a tenth of
a second at a few megabytes). Who subscribes in that moment gets it neither live nor as retained,
and would wait for ever. A repeated SUBSCRIBE makes any broker send what it retains again, so a
subscription to one topic that has heard nothing asks twice more.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Subscriptions"]

# The second request is for slow connections: by then even a bundle of megabytes has arrived.
_FACTOR = 10.0
_REQUESTS = 2


class _Entry:
    def __init__(self, topic: str) -> None:
        self.exact = not set("+#") & set(topic)
        self.heard = False
        self.requests_left = 0
        self.due_s = 0.0


class Subscriptions:
    """Topic filters, remembered over connections.

    Parameters
    ----------
    topics : iterable of str
        Filters from the start.
    ask_again_s : float
        Silence on a topic after which it is subscribed to again, and after ten times that once
        more. Filters with wildcards are not: nobody knows what they should have brought.
    """

    def __init__(self, topics: Iterable[str], *, ask_again_s: float) -> None:
        self._entries = {topic: _Entry(topic) for topic in topics}
        self._ask_again_s = ask_again_s

    @property
    def topics(self) -> list[str]:
        """All filters."""
        return list(self._entries)

    def add(self, topic: str, *, now_s: float) -> None:
        """Remember a filter that is subscribed to now."""
        self._entries[topic] = _Entry(topic)
        self._begin(self._entries[topic], now_s)

    def remove(self, topic: str) -> None:
        """Forget a filter."""
        self._entries.pop(topic, None)

    def begin(self, *, now_s: float) -> None:
        """Note that all filters are subscribed to now, on a new connection."""
        for entry in self._entries.values():
            self._begin(entry, now_s)

    def hear(self, topic: str) -> None:
        """Note that a message has arrived on a topic."""
        entry = self._entries.get(topic)
        if entry is not None:
            entry.heard = True

    def due(self, *, now_s: float) -> list[str]:
        """Topics to ask for again now; each is returned once per request."""
        topics = []
        for topic, entry in self._entries.items():
            if entry.requests_left and not entry.heard and now_s >= entry.due_s:
                entry.requests_left -= 1
                entry.due_s = now_s + _FACTOR * self._ask_again_s
                topics.append(topic)
        return topics

    def _begin(self, entry: _Entry, now_s: float) -> None:
        entry.heard = False
        entry.requests_left = _REQUESTS if entry.exact else 0
        entry.due_s = now_s + self._ask_again_s
