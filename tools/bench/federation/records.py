"""The format of every result, of peers and of this project alike, and the files with them."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = [
    "PRIVACY_LEVELS",
    "RESULTS",
    "Point",
    "Record",
    "about",
    "level_name",
    "load",
    "save",
]

RESULTS = Path(__file__).parent / "results"
#: epsilon of a run; None is without privacy. Delta is 1e-5 throughout.
PRIVACY_LEVELS: tuple[float | None, ...] = (None, 8.0, 2.0)
DELTA = 1e-5


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a run stands after a round.

    Parameters
    ----------
    round : int
    bytes_up : int
        Sent by one device up to here (the mean over devices).
    score : float
        The task's metric on the held-out rows.
    """

    round: int
    bytes_up: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Record:
    """One system on one task at one privacy level with one seed.

    Parameters
    ----------
    task : str
        A name from `tasks.TASKS`.
    system : str
        ``"centralised"``, ``"local only"``, ``"FedAvg"``, ``"FedProx"``, ``"FedAdam"``,
        ``"SCAFFOLD"``; ``"ours: pool"``, ``"ours: average"``, ``"ours: hybrid"``.
    epsilon : float or None
        What the whole run is worth per example at delta 1e-5; None without privacy.
    seed : int
    metric : {"accuracy", "auc"}
    score : float
        On the held-out rows, after the last round.
    rounds : int
    bytes_up : int
        Payload one device sends over the whole run (the mean over devices).
    device_cpu_s : float
        CPU seconds of one device over the whole run (the mean over devices).
    peak_rss_mb : float or None
        Of one device's process; measured once per task.
    nll : float or None
        Held-out negative log-likelihood of the generator, nats per row; classifiers have none.
    curve : sequence of Point
        After each round, or each round that was scored.
    settings : dict
        The choice this run used, as plain values.
    """

    task: str
    system: str
    epsilon: float | None
    seed: int
    metric: str
    score: float
    rounds: int
    bytes_up: int
    device_cpu_s: float
    peak_rss_mb: float | None = None
    nll: float | None = None
    curve: Sequence[Point] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, float | None, int]:
        """What a record stands for; a later one with the same key replaces it in a file."""
        return self.task, self.system, self.epsilon, self.seed


def level_name(epsilon: float | None) -> str:
    """Return how a privacy level is written in options and file names."""
    return "none" if epsilon is None else f"{epsilon:g}"


def load(path: Path) -> list[Record]:
    """Return the records of a file; none when there is no such file."""
    if not path.is_file():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    return [
        Record(**{**entry, "curve": tuple(_point(point) for point in entry["curve"])})
        for entry in document["records"]
    ]


def about(*packages: str) -> dict[str, Any]:
    """Return when and where a result was made: date, machine and versions of packages."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {_processor()}",
        "versions": {name: _version(name) for name in packages},
    }


def save(path: Path, records: Iterable[Record], **notes: Any) -> None:
    """Add records to a file, replacing those with the same key.

    Parameters
    ----------
    path : Path
    records : iterable of Record
    **notes : JSON values
        Further entries of the document (a grid, notes); those of earlier calls stay.
    """
    document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kept = {record.key: record for record in load(path)}
    kept.update({record.key: record for record in records})
    document.update(notes)
    document |= {
        **about("edge-runtime", "numpy", "flwr"),
        "delta": DELTA,
        "records": [_entry(record) for _, record in sorted(kept.items(), key=lambda i: str(i[0]))],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_one_record_a_line(document), encoding="utf-8")


def _entry(record: Record) -> dict[str, Any]:
    """Return a record as JSON values; points are lists, because there are thousands."""
    curve = [[point.round, point.bytes_up, point.score] for point in record.curve]
    return {**asdict(record), "curve": curve}


def _point(entry: Sequence[Any]) -> Point:
    return Point(round=entry[0], bytes_up=entry[1], score=entry[2])


def _one_record_a_line(document: dict[str, Any]) -> str:
    """Return JSON whose records are one a line: small, and a change shows as one line."""
    records = ",\n".join(json.dumps(_rounded(record)) for record in document["records"])
    rest = {key: value for key, value in document.items() if key != "records"}
    head = json.dumps(rest, indent=1)[:-2]
    return f'{head},\n "records": [\n{records}\n]}}\n'


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(entry) for entry in value]
    return value


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
