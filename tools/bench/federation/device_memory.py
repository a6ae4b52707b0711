"""Peak memory of one device of ours, measured once per task and privacy level.

    OMP_NUM_THREADS=1 python -m tools.bench.federation.device_memory --task watch-by-person

A whole run of the task's fleet in which the device with the most rows is the agent itself, a
process over a real broker: numpy, the MQTT client, the store, the engine and everything that its
plans ask for. Its peak (VmHWM) is read after the last plan, and is that of the whole run. Figures
go to results/device-memory.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from edge_runtime.fleet.simulated_device import SharedBundles
from edge_runtime.messages import Plan
from tools.bench.federation.agent import AgentDevice
from tools.bench.federation.memory import FILE, Figure, save_figures
from tools.bench.federation.ours import choice_for, simulate
from tools.bench.federation.records import PRIVACY_LEVELS, RESULTS, level_name
from tools.bench.federation.tasks import TASKS, Task, load_task

__all__ = ["measure"]

_STRATEGY = "pool"


class _Watched(AgentDevice):
    """Notes what it was asked for."""

    def work(self, plan: Plan) -> None:
        """See `AgentDevice.work`."""
        self.plans = (*getattr(self, "plans", ()), _describe(plan))
        super().work(plan)


def _describe(plan: Plan) -> str:
    parts = ("score", "anchor", "moments", "train", "rows", "update")
    return ", ".join(p for p in parts if getattr(plan, p) is not None) or plan.kind


def measure(task: Task, *, epsilon: float | None, seed: int = 0) -> Figure:
    """Run a task's fleet and return what its largest device needed."""
    choice = choice_for(task, epsilon=epsilon)
    largest = max(range(len(task.devices)), key=lambda at: len(task.devices[at]))
    name, rows = f"device-{largest:02d}", task.devices[largest]
    with (
        simulate(task, choice, strategy=_STRATEGY, epsilon=epsilon, seed=seed) as fleet,
        tempfile.TemporaryDirectory() as directory,
        _Watched(
            config=fleet.devices[name].config,
            schema=task.schema,
            rows=rows,
            bundles=SharedBundles(directory=Path(directory) / "bundles"),
            fetch=lambda _: fleet.bundle.to_bytes(),
            directory=Path(directory),
        ) as device,
    ):
        fleet.devices[name].close()
        fleet.devices[name] = device
        fleet.run()
        return Figure(
            task=task.name,
            system=f"ours: {_STRATEGY}",
            epsilon=epsilon,
            peak_rss_mb=round(device.peak_mb, 1),
            rows=len(rows),
            plans=device.plans,
        )


def main() -> None:
    """Measure what the options name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument(
        "--epsilon", choices=[level_name(v) for v in PRIVACY_LEVELS], action="append"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    for name in options.task or TASKS:
        for level in PRIVACY_LEVELS:
            if options.epsilon and level_name(level) not in options.epsilon:
                continue
            figure = measure(load_task(name), epsilon=level)
            print(
                f"{name} epsilon {level_name(level)}: {figure.peak_rss_mb:.1f} MB with "
                f"{figure.rows} rows; plans: {'; '.join(figure.plans)}",
                flush=True,
            )
            save_figures(options.results / FILE, [figure])


if __name__ == "__main__":
    main()
