"""Figures for Prometheus: the status and the alarms, served over HTTP by a thread of its own.

Off by default. They name devices and say what privacy they have spent, so the address is that of
this machine unless the configuration says otherwise.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from edge_runtime.aggregator.config import MetricsSettings
from edge_runtime.aggregator.guard.curve import CurvePoint
from edge_runtime.errors import AggregatorError, MissingExtraError
from edge_runtime.messages import AggregatorStatus, Alarms

__all__ = ["Metrics"]


class Metrics:
    """What is served: the last state that was shown.

    Parameters
    ----------
    settings : MetricsSettings
        Where to listen.

    Raises
    ------
    MissingExtraError
        If prometheus_client is not installed.
    AggregatorError
        If the port cannot be listened on.
    """

    def __init__(self, settings: MetricsSettings) -> None:
        try:
            import prometheus_client as prometheus  # noqa: PLC0415 - only where it is asked for
            import prometheus_client.core  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise MissingExtraError("prometheus_client", "aggregator") from error
        self._core: Any = prometheus.core
        self._lock = threading.Lock()
        self._state: tuple[AggregatorStatus, Alarms, Sequence[CurvePoint]] | None = None
        registry = prometheus.CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = prometheus.start_http_server(
                settings.port, addr=settings.host, registry=registry
            )
        except OSError as error:
            raise AggregatorError(
                f"metrics cannot be served at {settings.host}:{settings.port}: {error.strerror}; "
                "choose another port in [metrics]"
            ) from error

    def show(self, status: AggregatorStatus, alarms: Alarms, curve: Sequence[CurvePoint]) -> None:
        """Serve this state from now on."""
        with self._lock:
            self._state = (status, alarms, curve)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def collect(self) -> Iterator[Any]:
        """Yield the families of figures, as prometheus_client asks for them."""
        with self._lock:
            state = self._state
        if state is None:
            return
        status, alarms, curve = state
        yield from self._fleet(status)
        yield from self._alarms(alarms)
        yield from self._scores(curve)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Any:
        return self._core.GaugeMetricFamily(f"edge_runtime_{name}", text, labels=list(labels))

    def _counter(self, name: str, text: str, value: float) -> Any:
        return self._core.CounterMetricFamily(f"edge_runtime_{name}", text, value=value)

    def _fleet(self, status: AggregatorStatus) -> Iterator[Any]:
        phase = self._gauge("phase", "1 for the phase that the aggregator is in.", ["phase"])
        phase.add_metric([status.phase], 1)
        yield phase
        number = self._gauge("round", "Round in work.")
        number.add_metric([], status.round)
        yield number
        yield self._counter("batches_accepted", "Batches accepted into the pool.", status.batches)
        yield self._counter("rows_accepted", "Synthetic rows accepted.", status.rows)
        yield self._counter(
            "messages_quarantined", "Messages set aside or refused.", status.quarantined
        )
        yield self._counter(
            "messages_unauthentic",
            "Messages that no device of the fleet has sent, dropped since the start.",
            status.unauthentic,
        )
        devices = self._gauge("devices", "Devices by their last state.", ["state"])
        for state, count in sorted(Counter(d.status for d in status.devices.values()).items()):
            devices.add_metric([state], count)
        yield devices
        epsilon = self._gauge(
            "device_epsilon", "Cumulative epsilon that a device states.", ["device"]
        )
        set_aside = self._gauge(
            "device_quarantined", "Messages of a device that were set aside.", ["device"]
        )
        throttled = self._gauge(
            "device_throttled", "1 for a device that holds itself back.", ["device", "level"]
        )
        for device, progress in status.devices.items():
            if progress.epsilon is not None:
                epsilon.add_metric([device], progress.epsilon)
            set_aside.add_metric([device], progress.quarantined)
            if progress.throttled:
                throttled.add_metric([device, progress.throttled.split(":")[0]], 1)
        yield epsilon
        yield set_aside
        yield throttled
        figures = self._gauge(
            "candidate", "Figures of the last candidate against the anchor.", ["figure"]
        )
        for name, value in status.metrics.items():
            if value is not None:
                figures.add_metric([name], value)
        yield figures

    def _alarms(self, alarms: Alarms) -> Iterator[Any]:
        counts = self._gauge("alarms", "Alarms in force by severity.", ["severity"])
        for severity in ("critical", "warning", "notice"):
            counts.add_metric([severity], sum(a.severity == severity for a in alarms.alarms))
        yield counts
        each = self._gauge("alarm", "1 for every alarm in force.", ["kind", "severity", "subject"])
        value = self._gauge("alarm_value", "Figure that raised an alarm.", ["kind", "subject"])
        for alarm in alarms.alarms:
            each.add_metric([alarm.kind, alarm.severity, alarm.subject], 1)
            if alarm.value is not None:
                value.add_metric([alarm.kind, alarm.subject], alarm.value)
        yield each
        yield value

    def _scores(self, curve: Sequence[CurvePoint]) -> Iterator[Any]:
        nll = self._gauge(
            "score_nats", "Mean NLL of held-out real rows, nats per row.", ["bundle", "round"]
        )
        error = self._gauge(
            "score_error_nats", "Its standard error from noise and sampling.", ["bundle", "round"]
        )
        for point in curve:
            labels = [point.bundle[:12], str(point.round)]
            nll.add_metric(labels, point.nll)
            error.add_metric(labels, point.error)
        yield nll
        yield error
