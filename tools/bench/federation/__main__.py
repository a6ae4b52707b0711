"""Run the federation benchmark: the peers, this project, then the table and the plots.

    OMP_NUM_THREADS=1 python -m tools.bench.federation --task digits-by-class --epsilon 8

Peers run with the choices recorded in results/peers.json; ``--tune`` searches them again.
"""

from __future__ import annotations

import subprocess
import sys

from tools.bench.federation.records import RESULTS


def main() -> None:
    """Run each part in a process of its own, with the same options."""
    for part in ("peers", "ours"):
        subprocess.run(
            [sys.executable, "-m", f"tools.bench.federation.{part}", *sys.argv[1:]], check=True
        )
    subprocess.run(
        [sys.executable, "-m", "tools.bench.federation.report", "--plots", str(RESULTS)], check=True
    )


if __name__ == "__main__":
    main()
