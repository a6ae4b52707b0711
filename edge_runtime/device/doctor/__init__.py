"""What stands in the way of a device: every check with what was found, the problem and the fix.

Nothing is created or changed, and a running agent is not disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edge_runtime.device.doctor import board, broker, certificates, machine, updates
from edge_runtime.device.doctor.finding import Finding

if TYPE_CHECKING:
    # At run time it would bring the kernel, and one that fails is a finding.
    from edge_runtime.device.config import DeviceConfig

__all__ = ["Finding", "examine"]


def examine(config: DeviceConfig | None = None) -> list[Finding]:
    """Look at everything; a check that fails does not keep the others from running.

    Parameters
    ----------
    config : DeviceConfig, optional
        The device's; without it the machine alone is looked at.
    """
    checks: list[Callable[[], Iterator[Finding]]] = list(machine.CHECKS)
    if config is not None:
        for of_device in (
            *board.CHECKS,
            *certificates.CHECKS,
            *updates.CHECKS,
            *broker.CHECKS,
        ):
            checks.append(lambda check=of_device: check(config))  # type: ignore[misc]
    return [finding for check in checks for finding in check()]
