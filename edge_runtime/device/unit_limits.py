"""The memory and CPU limits of the configuration, in systemd's words.

The kernel holds a process to a limit through its control group, which belongs to systemd. So the
limits are rendered for it, and the agent, which is no root, sets nothing itself; it sees them in
its control group and slows down before they are reached (`governor`).
"""

from __future__ import annotations

from edge_runtime.device.config import LimitsConfig

__all__ = ["drop_in", "properties"]

#: of memory_bytes: from here on the kernel takes file pages back, before it kills at the whole
_HIGH = 0.9


def properties(limits: LimitsConfig) -> list[str]:
    """Return the limits that are set as ``name=value``; what is not set stays as the unit says."""
    memory, cpu = limits.memory_bytes, limits.cpu_percent
    lines = [f"MemoryHigh={round(_HIGH * memory)}", f"MemoryMax={memory}"] if memory else []
    return lines + ([f"CPUQuota={cpu}%"] if cpu else [])


def drop_in(limits: LimitsConfig) -> str:
    """Return a drop-in file for a service unit."""
    return "# From [limits] of device.toml.\n[Service]\n" + "".join(
        f"{line}\n" for line in properties(limits)
    )
