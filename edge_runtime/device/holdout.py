"""Which rows are held out: neither counted in the anchor nor trained on, only scored.

Every position in the store carries one secret number in [0, 1) for ever; a row is held out where
its number lies below the plan's share, so a larger share only adds rows. The numbers come from a
random key that never leaves the device, and not from the rows, so which rows are held out says
nothing about them. Without a row, those behind it take other numbers; but all numbers are equally
distributed and nobody knows them, so what is released is distributed as if each kept its own, and
one row still changes a release by itself alone.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from edge_runtime.device.store import Store
from edge_runtime.kernel import fill_uniform

__all__ = ["HOLDOUT_KEY", "forget_holdout", "held_out"]

#: where the device keeps the secret
HOLDOUT_KEY = "holdout.secret"


def held_out(store: Store, rows: int, share: float) -> npt.NDArray[np.bool_]:
    """Say which of the first `rows` rows of the store are held out: bool [rows]. PRIVATE.

    Parameters
    ----------
    store : Store
        Keeps the secret; the first call makes it, durably.
    rows : int
        Rows, in the order of the store.
    share : float
        Expected share of rows that are held out; 0: none.
    """
    if share == 0.0:
        return np.zeros(rows, dtype=np.bool_)
    secret = store.get(HOLDOUT_KEY)
    if secret is None:
        secret = os.urandom(32)
        store.put(HOLDOUT_KEY, secret)
    lots = np.empty(rows, dtype=np.float32)
    fill_uniform(lots, key=secret, stream=0)
    return np.asarray(lots < share, dtype=np.bool_)


def forget_holdout(store: Store) -> None:
    """Draw anew from now on: the source has begun again, positions mean other rows.

    Inside the caller's transaction, or in one of its own.
    """
    store.delete(HOLDOUT_KEY)
