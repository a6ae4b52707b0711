"""aggregator.toml: every setting of an aggregator, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edge_runtime.aggregator.config_checks import first_problem
from edge_runtime.aggregator.guard_config import GuardSettings, MetricsSettings
from edge_runtime.errors import ConfigError
from edge_runtime.process.toml_file import below, read_toml
from edge_runtime.reception.settings import AggregatorTls, LimitSettings

__all__ = [
    "AggregatorConfig",
    "BrokerSettings",
    "BundleSettings",
    "DataSettings",
    "FleetSettings",
    "FusionSettings",
    "GuardSettings",
    "LimitSettings",
    "MetricsSettings",
    "PrivacySettings",
    "ReleaseSettings",
    "RoundSettings",
    "RowSettings",
    "SchemaSettings",
    "TrainPlanSettings",
    "load_config",
]


class FleetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[fleet]: which fleet this aggregator serves.

    Parameters
    ----------
    name : str
        The segment of the topics, `er/v1/<name>/...`.
    devices : int
        How many devices are expected; a round ends early when so many have answered. 0: unknown,
        every round lasts until its deadline.
    """

    name: str
    devices: int = 0


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[broker]: where the MQTT broker listens; see `AggregatorTls` for [broker.tls]."""

    host: str = "127.0.0.1"
    port: int = 1883
    username: str | None = None
    password: str | None = None
    keepalive_s: int = 30
    tls: AggregatorTls | None = None


class BundleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[bundle]: what the published generator carries besides weights, codec and ONNX graph.

    Parameters
    ----------
    tflite : bool
        The sampler as a .tflite file, for devices whose engine is tflite. Every device fetches
        it, and the kernel engine has no use for it.
    packed : str
        A packed graph (`edge-runtime bundle pack`) to serve instead of a generator of the fleet's
        own: in every round devices draw rows from it and send them. Nothing is counted, trained
        or fused. Relative paths are taken from the configuration file's directory.
    """

    tflite: bool = False
    packed: str = ""


class UpdateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[updates]: with what schema, plans and bundles are signed (docs/updates.md).

    Parameters
    ----------
    keys : str
        The directory of online keys and roots, as `edge-runtime fleet init` makes it.
    """

    keys: str


class DataSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[data]: where the pool, the summaries and the catalogue are kept.

    Parameters
    ----------
    dir : str
        A directory; relative paths are taken from the configuration file's directory.
    catalogue : str
        An SQLAlchemy URL; empty: SQLite, `catalogue.sqlite` in `dir`.
    """

    dir: str
    catalogue: str = ""


class SchemaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[schema]: the table's public declaration (a file written by `Schema.save`)."""

    path: str


class PrivacySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[privacy]: what one row may cost over all rounds together.

    Parameters
    ----------
    epsilon : float or "none"
        The cumulative ceiling. "none": a run WITHOUT PRIVACY.
    delta : float
        Of (epsilon, delta).
    """

    epsilon: float | Literal["none"]
    delta: float = 1e-5

    @property
    def limit(self) -> float | None:
        """Epsilon, or None for a run without privacy."""
        return None if self.epsilon == "none" else float(self.epsilon)


class RoundSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[rounds]: how many, how long, and how the budget is shared out.

    Parameters
    ----------
    count : int
        Training rounds after the census.
    quorum : int
        Devices that must have answered before a round may end.
    deadline_s : float
        Seconds after which a round ends with the quorum it has; without a quorum it waits on.
    census_share : float
        The census's share of the whole Renyi budget; the training rounds share the rest evenly.
    anchor_share : float or "auto"
        The share of a training round's budget that goes to the anchor's counts; 0: no anchor.
        "auto": more, the fewer rows devices have.
    score_share : float
        The same for the score of the round's bundle on held-out rows; 0: no scores, and no curve
        for the guard.
    score_clip : float
        Nats at which a row's negative log-likelihood is cut off in the score: the noise grows
        with it. Twice what ordinary rows have is enough.
    holdout : float
        Share of a device's rows that it holds out to score with.
    pairs : {"conditions", "none"}
        What the anchor counts: each condition column with every other, or every column alone.
    interactions : int
        At most so many tables of the first condition column and two others are asked for from the
        second round on: first those of which the pool says that they would tell most, as many as
        their noise allows. 0: none.
    moments : {"auto", "none"}
        Whether fleets that are asked for counts alone also sum scores and their products, over two
        rounds at least.
    rollout : tuple of float
        Shares of the fleet that a round's plan goes to one after the other, ascending up to 1;
        the census goes to all at once.
    rollout_failures : float
        Share of the reports of the first devices that may be failures. With more the plan goes no
        further.
    """

    count: int = 2
    quorum: int = 1
    deadline_s: float = 3600.0
    census_share: float = 0.08
    anchor_share: float | Literal["auto"] = "auto"
    interactions: int = 32
    score_share: float = 0.0
    score_clip: float = 60.0
    holdout: float = 0.0
    pairs: Literal["conditions", "none"] = "conditions"
    moments: Literal["auto", "none"] = "auto"
    rollout: Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=32)] = (1.0,)
    rollout_failures: float = 0.1


class TrainPlanSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[train]: how a device trains; the noise follows from the budget."""

    steps: int = 300
    expected_batch: int = 512
    clip_norm: float = 1.0
    learning_rate: float = 1e-2
    averaging: float = 0.0


class RowSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[rows]: how many synthetic rows a device sends per round.

    Parameters
    ----------
    share : float
        Of the device's noisy count of real rows.
    minimum, maximum : int
        Bounds of the result. More than `maximum` rows of one device in one round are quarantined.
    clamp : {"own", "balanced"}
        Whether condition columns follow the device's own noisy histogram or are balanced.
    """

    share: float = 0.25
    minimum: int = 500
    maximum: int = 12000
    clamp: Literal["own", "balanced"] = "own"


class FusionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[fusion]: how the pool becomes the next generator.

    Parameters
    ----------
    strategy : str
        Name of a strategy; "pool" retrains on the accumulated pool.
    hidden : int
        Units of each hidden layer, fixed by the first bundle.
    bins : int or "auto"
        Bins per numeric column at most, fixed by the first bundle. "auto": as many as the fleet's
        rows and the noise of its counts can fill.
    prior : float or "auto"
        Share of what a generator is trained on that is drawn from the anchor's counts alone.
        "auto": more, the fewer rows devices have and the smaller the budget; none without privacy.
        From a half on, under privacy, rounds ask for counts alone.
    epochs, batch, learning_rate, patience
        Of training; `patience` epochs without a better held-out score end it.
    validation_share : float
        Share of the pool's rows that is held out to score a candidate.
    max_rows : int
        More pooled rows than this are thinned before training.
    max_seconds : float
        Wall-clock bound of training; the best weights so far are kept.
    rake : bool
        Whether pooled rows are weighted towards the anchor's merged counts.
    update_clip : float
        L2 norm of one device's weight update, for strategies that use updates.
    server : {"avg", "adam"}
        What the server does with the mean update: FedAvg or FedAdam.
    server_learning_rate : float
        Its step; 0: 1 for FedAvg, 0.03 for FedAdam.
    """

    strategy: str = "pool"
    hidden: int = 128
    bins: int | Literal["auto"] = "auto"
    prior: float | Literal["auto"] = "auto"
    epochs: int = 15
    batch: int = 512
    learning_rate: float = 3e-3
    patience: int = 3
    validation_share: float = 0.1
    max_rows: int = 200_000
    max_seconds: float = 18.0
    rake: bool = True
    update_clip: float = 50.0
    server: Literal["avg", "adam"] = "avg"
    server_learning_rate: float = 0.0

    @property
    def server_rate(self) -> float:
        """The server's step, by default that of its optimiser."""
        return self.server_learning_rate or {"avg": 1.0, "adam": 0.03}[self.server]


class ReleaseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[release]: the dataset that is written when the last round is done.

    Parameters
    ----------
    on_finish : bool
        Whether to write it without being asked.
    rows : int
        How many rows; 0: as many as the fleet is estimated to hold, at most the pool's.
    """

    on_finish: bool = True
    rows: int = 0


class AggregatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file; `seed` decides sampling keys and fusion, never privacy noise."""

    fleet: FleetSettings
    data: DataSettings
    schema: SchemaSettings
    privacy: PrivacySettings
    broker: BrokerSettings = BrokerSettings()
    bundle: BundleSettings = BundleSettings()
    rounds: RoundSettings = RoundSettings()
    train: TrainPlanSettings = TrainPlanSettings()
    rows: RowSettings = RowSettings()
    fusion: FusionSettings = FusionSettings()
    guard: GuardSettings = GuardSettings()
    metrics: MetricsSettings = MetricsSettings()
    release: ReleaseSettings = ReleaseSettings()
    limits: LimitSettings = LimitSettings()
    updates: UpdateSettings | None = None
    seed: int = 0
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def data_dir(self) -> Path:
        """The data directory."""
        return Path(self.data.dir)

    @property
    def catalogue_url(self) -> str:
        """The catalogue's SQLAlchemy URL."""
        return self.data.catalogue or default_catalogue_url(self.data_dir)


def default_catalogue_url(data_dir: Path) -> str:
    """URL of the SQLite catalogue inside a data directory."""
    return f"sqlite:///{(data_dir / 'catalogue.sqlite').absolute()}"


def load_config(path: str | Path) -> AggregatorConfig:
    """Read and check aggregator.toml.

    Parameters
    ----------
    path : str or Path
        The file. Relative paths inside it are taken from its directory.

    Raises
    ------
    ConfigError
        If the file is missing, is not TOML, has unknown or missing keys or impossible values.
    """
    path = Path(path)
    try:
        raw = read_toml(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    base = path.parent

    def resolve(kind: type, value: object) -> Path:
        if kind is not Path:
            raise ValueError(f"expected a path, got {value!r}")
        return below(base, value)

    try:
        config = msgspec.convert(raw, AggregatorConfig, dec_hook=resolve)
    except msgspec.ValidationError as error:
        raise ConfigError.invalid(path, error, hint=f"python -m pydoc {__name__}") from error
    config = msgspec.structs.replace(
        config,
        data=msgspec.structs.replace(config.data, dir=str(base / config.data.dir)),
        schema=msgspec.structs.replace(config.schema, path=str(base / config.schema.path)),
        bundle=msgspec.structs.replace(
            config.bundle, packed=config.bundle.packed and str(base / config.bundle.packed)
        ),
        updates=config.updates and UpdateSettings(keys=str(base / config.updates.keys)),
    )
    problem = first_problem(config)
    if problem:
        raise ConfigError(f"{path}: {problem}")
    return config
