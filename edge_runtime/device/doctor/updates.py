"""Whether this device takes only what its fleet has signed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge_runtime.device.doctor.finding import Finding

if TYPE_CHECKING:
    # At run time it would bring the kernel, and one that fails is a finding.
    from edge_runtime.device.config import DeviceConfig

__all__ = ["CHECKS"]


def _updates(config: DeviceConfig) -> Iterator[Finding]:
    settings = getattr(config, "updates", None)
    if settings is None:
        yield Finding(
            check="updates",
            found="NOT signed: the device takes any schema, plan and bundle that the broker has",
        )
        return
    try:
        version = int(json.loads(settings.root.read_text(encoding="utf-8"))["signed"]["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Finding(
            check="updates",
            found=str(settings.root),
            problem=f"is not a root.json that can be read ({type(error).__name__})",
            fix="enrol the device again, or copy the fleet's root.json there",
        )
        return
    missing = importlib.util.find_spec("tuf") is None
    yield Finding(
        check="updates",
        found=f"signed, by root {version} and its successors",
        problem="python-tuf is not installed, so nothing can be verified" if missing else "",
        fix="pip install tuf" if missing else "",
    )


CHECKS = (_updates,)
