"""Where a generator comes from."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Lineage"]


class Lineage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ancestry of a bundle and what learning it cost.

    Attributes
    ----------
    parent : str or None
        Digest of the bundle whose weights training started from.
    depth : int
        Generations of synthetic rows behind these weights; 0 for weights that saw no synthetic
        row.
    round : int
        Training round of the fleet, 0 before the first.
    devices : int
        Devices that contributed.
    rows : float
        Real rows behind the weights, a noisy estimate wherever privacy is on.
    privacy : dict
        Privacy statement; ``epsilon`` None means without privacy.
    """

    parent: str | None
    depth: int
    round: int
    devices: int
    rows: float
    privacy: dict[str, Any]
