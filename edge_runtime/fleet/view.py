"""The demo's live picture: a table that redraws in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edge_runtime.fleet.observer import Snapshot
from edge_runtime.messages import AggregatorStatus, DeviceState
from edge_runtime.process import printable

__all__ = ["FleetView"]

_PHASES = {
    "waiting": "waiting for devices",
    "census": "census: devices count, with noise",
    "round": "devices train and send synthetic rows",
    "fusing": "fusing the pool into the next generator",
    "done": "done",
    "failed": "FAILED",
    "offline": "offline",
}
_COLOURS = {
    "training": "cyan",
    "measuring": "cyan",
    "sampling": "cyan",
    "sending": "blue",
    "idle": "green",
    "declined": "red",
    "offline": "red",
}
_TROUBLE = ("declined", "offline")
#: without a terminal, at most one line a phase change and one every so often
_LINE_EVERY_S = 10.0


class FleetView:
    """Shows snapshots of a fleet until it is closed.

    Parameters
    ----------
    console : rich.console.Console
        Redraws in place when it is a terminal, prints lines otherwise.
    names : mapping of str to str
        Device ids and their names for people, in the order to show.
    private : bool
        False puts WITHOUT PRIVACY into every picture.
    """

    def __init__(self, *, console: Console, names: Mapping[str, str], private: bool) -> None:
        self._console = console
        self._names = dict(names)
        self._private = private
        self._started = time.monotonic()
        self._live: Live | None = None
        self._line = ""
        self._line_at = 0.0

    def __enter__(self) -> FleetView:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=4, transient=True, auto_refresh=False
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, snapshot: Snapshot, *, memory_bytes: int = 0, note: str = "") -> None:
        """Show this snapshot; `note` is what the demo itself is doing."""
        if self._live is not None:
            self._live.update(self._picture(snapshot, memory_bytes, note), refresh=True)
        else:
            self._print_line(snapshot, note)

    def _picture(self, snapshot: Snapshot, memory_bytes: int, note: str) -> Group:
        table = Table(box=None, padding=(0, 1), pad_edge=False)
        for heading, justify in (
            ("device", "left"), ("", "left"), ("state", "left"), ("", "left"),
            ("synthetic", "right"), ("kB up", "right"), ("epsilon", "right"),
        ):  # fmt: skip
            table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        progress = snapshot.aggregator.devices if snapshot.aggregator is not None else {}
        for device, name in self._names.items():
            state = snapshot.devices.get(device)
            accepted = progress[device].rows if device in progress else 0
            table.add_row(*self._row(device, name, state, accepted))
        parts: list[Text | Table] = [self._head(snapshot, memory_bytes), Text(""), table]
        for device, state in snapshot.devices.items():
            if state.status in _TROUBLE and state.reason:
                parts.append(Text(printable(f"{device}: {state.reason}"), style="red"))
        if note:
            parts.append(Text(f"\n{note}", style="dim"))
        return Group(*parts)

    def _row(
        self, device: str, name: str, state: DeviceState | None, accepted: int
    ) -> tuple[Text | ProgressBar | str, ...]:
        if state is None:
            return (Text(device, style="bold"), name, Text("starting", style="dim"), "", "", "", "")
        epsilon = "none" if not state.private else "-"
        if state.private and state.epsilon_spent is not None:
            epsilon = f"{state.epsilon_spent:.2f}"
        working = state.status in ("measuring", "training", "sampling", "sending")
        bar: ProgressBar | str = (
            ProgressBar(total=1.0, completed=state.progress, width=14) if working else ""
        )
        return (
            Text(device, style="bold"),
            name,
            Text(state.status, style=_COLOURS.get(state.status, "")),
            bar,
            f"{accepted:,}",
            f"{state.bytes_up / 1e3:,.1f}",
            epsilon,
        )

    def _head(self, snapshot: Snapshot, memory_bytes: int) -> Text:
        text = Text()
        if not self._private:
            text.append(" WITHOUT PRIVACY ", style="bold white on red")
            text.append("  ")
        text.append(describe(snapshot.aggregator), style="bold")
        text.append(f"   {time.monotonic() - self._started:.0f} s", style="dim")
        if memory_bytes:
            text.append(f"   {memory_bytes / 1e6:,.0f} MB", style="dim")
        if snapshot.problem:
            text.append(f"\n{snapshot.problem}", style="red")
        return text

    def _print_line(self, snapshot: Snapshot, note: str) -> None:
        head = note or describe(snapshot.aggregator)
        now = time.monotonic()
        if head == self._line and now - self._line_at < _LINE_EVERY_S:
            return
        self._line, self._line_at = head, now
        counts: dict[str, int] = {}
        for device in self._names:
            state = snapshot.devices.get(device)
            key = "starting" if state is None else state.status
            counts[key] = counts.get(key, 0) + 1
        rows = snapshot.aggregator.rows if snapshot.aggregator is not None else 0
        devices = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        loud = "" if self._private else "WITHOUT PRIVACY | "
        self._console.print(
            f"{loud}{now - self._started:4.0f} s | {head} | {devices} | "
            f"{rows:,} synthetic rows accepted",
            highlight=False,
            soft_wrap=True,
        )


def describe(status: AggregatorStatus | None) -> str:
    """Return the aggregator's phase for people."""
    if status is None:
        return "starting"
    text = _PHASES[status.phase]
    if status.phase in ("round", "fusing") and status.round:
        text = f"round {status.round} of {status.rounds}: {text}"
    return text
