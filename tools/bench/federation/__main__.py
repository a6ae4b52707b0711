"""Run the federation benchmark: the peers, this project, then the table and the plots.

    OMP_NUM_THREADS=1 python -m tools.bench.federation --task digits-by-class --system FedAvg

Peers run with the choices recorded in results/peers.json; ``--tune`` searches them again (hours).
Every part adds its records to a file of its own, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from tools.bench.federation.peers import SYSTEMS
from tools.bench.federation.records import PRIVACY_LEVELS, RESULTS, level_name, save
from tools.bench.federation.tasks import TASKS, load_task

OURS = ("ours: pool", "ours: average", "ours: hybrid")


def main() -> None:
    """Run what the options name, and report everything that is recorded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--system", choices=(*SYSTEMS, *OURS), action="append")
    levels = [level_name(level) for level in PRIVACY_LEVELS]
    parser.add_argument("--epsilon", choices=levels, action="append")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", action="store_true", help="search the peers' settings again")
    parser.add_argument(
        "--device-memory",
        action="store_true",
        help="measure the peak memory of a device of ours, and run nothing else",
    )
    options = parser.parse_args()
    systems = options.system or (*SYSTEMS, *OURS)
    tasks = options.task or list(TASKS)
    epsilons = options.epsilon or levels
    named = [("--task", tasks), ("--epsilon", epsilons)]
    arguments = [text for flag, values in named for value in values for text in (flag, value)]
    if options.device_memory:
        _python("device_memory", *arguments)
        systems = ()
    peers = [text for name in systems if name in SYSTEMS for text in ("--system", name)]
    if peers:
        tuning = ["--tune"] if options.tune else []
        _python("peers", *arguments, *peers, "--seeds", str(options.seeds), *tuning)
    for system in systems:
        if system in OURS:
            _run_ours(system, tasks, epsilons, options.seeds)
    _python("report", "--plots", str(RESULTS))


def _run_ours(system: str, tasks: list[str], epsilons: list[str], seeds: int) -> None:
    from tools.bench.federation.ours import run

    for name in tasks:
        for level in PRIVACY_LEVELS:
            if level_name(level) not in epsilons:
                continue
            for seed in range(seeds):
                task = load_task(name, seed=seed)
                record = run(task, strategy=system.partition(": ")[2], epsilon=level, seed=seed)
                save(RESULTS / "ours.json", [record])


def _python(part: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", f"tools.bench.federation.{part}", *arguments], check=True)


if __name__ == "__main__":
    main()
