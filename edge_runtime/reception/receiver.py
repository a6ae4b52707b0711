"""The reception at work: receives for the aggregator, unpacks, and speaks for it to the broker.

Three threads. The link's sorts messages into a bounded queue and waits where that is full; one
unpacks the next group while the aggregator judges and commits the one before; the caller's does
what the aggregator says. So the aggregator may be busy for as long as it likes: the connection
lives on, and what arrives is held here or by the broker.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator

from edge_runtime.errors import MessageError
from edge_runtime.messages import DeviceState, Limits, Link, Topics
from edge_runtime.reception.arrivals import Arrivals
from edge_runtime.reception.channel import Channel, ClosedError
from edge_runtime.reception.flooding import Flooding
from edge_runtime.reception.frames import (
    Answers,
    Close,
    Collect,
    Command,
    Delivery,
    Publish,
    Start,
    decode,
    encode,
)
from edge_runtime.reception.seals import Opened, Seals
from edge_runtime.reception.settings import ReceptionSettings
from edge_runtime.reception.unpacking import Incoming, Parcel, unpack

__all__ = ["Receiver"]

_LOG = logging.getLogger(__name__)

#: A commit takes as long as ten batches: after a group of more than a few, the next one gathers.
_FEW = 8
_GATHER_S = 0.1
#: a delivery of nothing goes out after this: the aggregator sees that it is not alone
_TICK_S = 0.1
#: While the queue is full the broker keeps what comes, which costs less than to have it again; no
#: longer, as the connection has to be kept alive where a disk is full.
_PATIENCE_S = 1.0
#: Unpacked rows in one delivery, at most, beside the last message's: compressed they may be a
#: thousandth of it.
_MOST_BYTES = 64 << 20


class Receiver:
    """The aggregator's end of the link, in a process of its own.

    Parameters
    ----------
    settings : ReceptionSettings
    channel : Channel
        To the aggregator.

    Attributes
    ----------
    failed : bool
        Whether it has hung up itself, after a fault of its own.

    Raises
    ------
    ConfigError
        The broker's settings cannot be used.
    """

    def __init__(self, settings: ReceptionSettings, channel: Channel) -> None:
        self._channel = channel
        self.failed = False
        self._topics = Topics(settings.fleet)
        self._seals = Seals(tls=settings.tls, topics=self._topics)
        self._arrivals = Arrivals(settings.limits)
        self._flooding = Flooding(self._arrivals)
        self._limits = Limits()
        self._states: dict[str, DeviceState] = {}
        self._states_lock = threading.Lock()
        self._wanted: queue.SimpleQueue[int] = queue.SimpleQueue()
        #: taken from the queue, too much for the delivery before
        self._left: deque[Opened] = deque()
        self._link = Link(
            host=settings.host,
            port=settings.port,
            client_id=settings.client_id,
            topics=[
                self._topics.all_states,
                self._topics.all_batches,
                self._topics.all_summaries,
            ],
            will=(self._topics.status, settings.will),
            on_message=self._on_message,
            username=settings.username,
            password=settings.password,
            tls=settings.tls,
            keepalive_s=settings.keepalive_s,
        )

    def serve(self) -> None:
        """Do what the aggregator says until it says `Close`.

        Raises
        ------
        ClosedError
            There is nobody to speak to any more.
        """
        threading.Thread(target=self._deliver, name="unpacking", daemon=True).start()
        while True:
            command: Command = decode(self._channel.receive(), Command)  # type: ignore[arg-type]
            match command:
                case Start():
                    self._link.start()
                    self._seals.publish(self._link)
                case Publish(topic, payload):
                    self._link.publish(topic, payload, retain=True)
                case Collect(most):
                    self._wanted.put(most)
                case Answers(answers):
                    for device, key, body in answers:
                        self._link.answer(*self._seals.answer(device, body, key=key))
                case Close(farewell):
                    self._link.close(farewell=farewell)
                    return

    # on the link's thread ---------------------------------------------------------------------

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        try:
            address = self._topics.parse(topic)
            if address.kind == "state":
                if not self._arrivals.within_rate(address.device, len(payload)):
                    return
                state = self._seals.state(address.device, payload)
                if state is None:
                    return
                with self._states_lock:
                    # By the topic: access rules of the broker protect it, not the payload.
                    self._states[address.device] = state
                return
        except MessageError as error:
            _LOG.warning("ignored a message on %s: %s", topic, error)
            return
        if retained:
            # A retained batch would come again at every reconnect; the protocol has none.
            _LOG.warning("ignored a retained message on %s", topic)
            return
        # What is not held is not acknowledged: its device sends it again, later.
        message = Incoming(address.device, address.kind, payload)
        self._arrivals.put(message, timeout=_PATIENCE_S)

    # on a thread of its own -------------------------------------------------------------------

    def _deliver(self) -> None:
        try:
            taken = 0
            while True:
                most = self._wanted.get()
                if taken > _FEW and len(self._arrivals) < most:
                    time.sleep(_GATHER_S)
                parcels = list(self._parcels(most))
                taken = len(parcels)
                with self._states_lock:
                    states, self._states = self._states, {}
                delivery = Delivery(parcels, states, self._flooding.news(), self._seals.unauthentic)
                self._channel.send(encode(delivery))
        except ClosedError:
            return  # as `serve` will find
        except BaseException:  # noqa: BLE001 - nobody else would hear of it
            _LOG.exception("the reception ends")
            self.failed = True
            self._channel.close()

    def _parcels(self, most: int) -> Iterator[Parcel]:
        if not self._left:
            self._left.extend(self._seals.open(self._arrivals.take(most, timeout=_TICK_S)))
        size = 0
        while self._left and size < _MOST_BYTES:
            message, key = self._left.popleft()
            parcel = unpack(message, limits=self._limits, key=key)
            size += len(message.payload) + (parcel.rows.size_bytes if parcel.rows else 0)
            yield parcel
