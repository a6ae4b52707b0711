"""What a device ever released, from its file alone: for the operator who has to answer for it.

Read only, beside a running agent. The order is the ledger's; it reads no clock, so there are no
times here. The aggregator's catalogue has the time at which each message arrived.
"""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from fractions import Fraction
from typing import Literal, NamedTuple

import msgspec

from edge_runtime.device.config import DeviceConfig
from edge_runtime.device.schemas import KEPT_KEY
from edge_runtime.errors import MessageError, StoreError
from edge_runtime.messages import decode_plan, peek_batch, peek_summary
from edge_runtime.privacy import Entry, read_entries, to_epsilon
from edge_runtime.schema import Schema

__all__ = ["Account", "Release", "read_account"]

_STORE_FILE = "device.sqlite"

State = Literal["paid", "queued", "refused", "acknowledged"]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the account.

    Attributes
    ----------
    number : int
        Position in the ledger, from 1; 0 for rows that cost nothing.
    what : str
        census, score, anchor, moments, training; rows for those of a sample plan.
    plan_id, plan : str
        The plan and its kind; the kind is empty where the plan is not kept any more.
    round : int or None
    mechanism : str
        With its parameters: what the noise was, or that there was none.
    private : bool
        False: this release had no noise, and from here on no epsilon is a number.
    epsilon : float or None
        Of this release alone, at the account's delta; None without privacy.
    epsilon_after : float or None
        Of all up to here; less than the sum, as costs are composed.
    state : {"paid", "queued", "refused", "acknowledged"}
        paid: nothing of it has left, and it counts all the same; queued: in the outbox;
        refused: the aggregator did not take it; acknowledged: the aggregator has it, in its pool
        or in its quarantine.
    waiting, refused : int
        Messages of it in the outbox.
    message_id : str or None
        Of its first message, by which the aggregator's catalogue finds it.
    """

    number: int
    what: str
    plan_id: str
    plan: str
    round: int | None
    mechanism: str
    private: bool
    epsilon: float | None
    epsilon_after: float | None
    state: State
    waiting: int
    refused: int
    message_id: str | None


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """All releases of a device, oldest first, and what they come to.

    Attributes
    ----------
    unit : str
        What one unit of privacy is: the schema's word for a row, or what takes its place.
    private : bool
        False: something was released WITHOUT PRIVACY.
    epsilon_limit, epsilon_left : float or None
        None: the configuration has no limit.
    epsilon_spent : float or None
        None after a release without privacy.
    """

    device: str
    fleet: str
    unit: str
    delta: float
    private: bool
    epsilon_limit: float | None
    epsilon_spent: float | None
    epsilon_left: float | None
    releases: tuple[Release, ...]


class _Messages(NamedTuple):
    waiting: int = 0
    refused: int = 0


def read_account(config: DeviceConfig) -> Account:
    """Read what the device of a configuration has released.

    Raises
    ------
    StoreError
        When its file is missing or cannot be read.
    LedgerError
        When its ledger is damaged.
    """
    path = config.state_dir / _STORE_FILE
    if not path.exists():
        raise StoreError(
            f"{path} is not there: this device has released nothing, or device.state_dir names "
            "another directory than its agent's"
        )
    delta = config.privacy.delta
    try:
        # Read only: the agent goes on writing beside it.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            # One moment of the file for all of it.
            database.execute("BEGIN")
            entries = read_entries(database, delta=delta) if _has_ledger(database) else []
            plans = _plans(database)
            messages = _messages(database)
            unit = _unit(database)
    except sqlite3.Error as error:
        raise StoreError(
            f"{path} cannot be read ({error}); read it as the device's own user, and if it is "
            "damaged keep it: it holds the account of the privacy already spent"
        ) from error
    spent = entries[-1].epsilon_after if entries else 0.0
    limit = config.privacy.epsilon_limit
    paid = [_release(entry, plans, messages, delta) for entry in entries]
    return Account(
        device=config.id,
        fleet=config.fleet,
        unit=unit,
        delta=delta,
        private=math.isfinite(spent),
        epsilon_limit=limit,
        epsilon_spent=_finite(spent),
        epsilon_left=None if limit is None else max(0.0, limit - spent),
        releases=(*paid, *_free(plans, messages)),
    )


class _Plan(NamedTuple):
    kind: str
    round: int
    status: str


def _plans(database: sqlite3.Connection) -> dict[str, _Plan]:
    found = {}
    for plan_id, data, status in database.execute(
        "SELECT id, plan, status FROM plans ORDER BY received"
    ):
        try:
            plan = decode_plan(bytes(data))
        except MessageError:  # of another release; the ledger's entry is still there
            continue
        found[str(plan_id)] = _Plan(plan.kind, plan.round, str(status))
    return found


def _messages(database: sqlite3.Connection) -> dict[str, _Messages]:
    """Count what lies in the outbox, by the key of the ledger that it belongs to."""
    found: dict[str, _Messages] = {}
    for kind, status, payload in database.execute("SELECT kind, status, payload FROM outbox"):
        header = (peek_batch if kind == "batch" else peek_summary)(bytes(payload))
        part = "training" if header.kind in ("batch", "update") else header.kind
        key = f"{header.plan_id}/{part}"
        before = found.get(key, _Messages())
        found[key] = _Messages(
            before.waiting + (status == "pending"), before.refused + (status == "refused")
        )
    return found


def _has_ledger(database: sqlite3.Connection) -> bool:
    # A device that was started and never had a plan.
    return bool(
        database.execute("SELECT 1 FROM sqlite_master WHERE name = 'ledger_entries'").fetchone()
    )


def _unit(database: sqlite3.Connection) -> str:
    row = database.execute("SELECT value FROM meta WHERE key = ?", (KEPT_KEY,)).fetchone()
    return "row" if row is None else Schema.from_json(bytes(row[0])).learnt.privacy_unit


def _release(
    entry: Entry, plans: dict[str, _Plan], messages: dict[str, _Messages], delta: float
) -> Release:
    plan_id = entry.key.partition("/")[0]
    plan = plans.get(plan_id)
    waiting, refused = messages.get(entry.key, _Messages())
    return Release(
        number=entry.number,
        what=entry.what,
        plan_id=plan_id,
        plan="" if plan is None else plan.kind,
        round=entry.details.get("round"),
        mechanism=_mechanism(entry),
        private=entry.rdp is not None,
        epsilon=None if entry.rdp is None else to_epsilon(entry.rdp, delta),
        epsilon_after=_finite(entry.epsilon_after),
        state=_state(waiting, refused) if entry.released else "paid",
        waiting=waiting,
        refused=refused,
        message_id=entry.message_id,
    )


def _free(plans: dict[str, _Plan], messages: dict[str, _Messages]) -> list[Release]:
    """Rows that were drawn from a bundle as it came, which no real row has shaped here."""
    found = []
    for plan_id, plan in plans.items():
        if plan.kind != "sample" or plan.status != "done":
            continue
        waiting, refused = messages.get(f"{plan_id}/training", _Messages())
        found.append(
            Release(
                number=0, what="rows", plan_id=plan_id, plan=plan.kind, round=plan.round,
                mechanism="none needed: rows of the plan's bundle", private=True, epsilon=0.0,
                epsilon_after=None, state=_state(waiting, refused), waiting=waiting,
                refused=refused, message_id=None,
            )
        )  # fmt: skip
    return found


def _state(waiting: int, refused: int) -> State:
    return "queued" if waiting else "refused" if refused else "acknowledged"


def _mechanism(entry: Entry) -> str:
    if entry.rdp is None:
        return "WITHOUT PRIVACY: no noise"
    settings = entry.details.get("settings")
    # The rest of the details names parts of the store: a trace of how rows came in.
    if settings is None:
        return f"discrete Gaussian, sigma {float(Fraction(entry.details['sigma'])):.4g} per count"
    return (
        f"DP-SGD, noise multiplier {settings['noise_multiplier']:.4g}, {settings['steps']} steps, "
        f"expected batch {settings['expected_batch']}"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
