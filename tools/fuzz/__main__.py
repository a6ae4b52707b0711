"""Fuzzes every target, a few processes at once, and says what came of it.

python -m tools.fuzz --seconds 60                  every target for a minute
python -m tools.fuzz --only bundle --seconds 600   one of them
python -m tools.fuzz --replay FILE --only bundle   an input that was found, with its traceback
python -m tools.fuzz --seeds                       writes the valid inputs of the corpus anew
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tools.fuzz import engine
from tools.fuzz.contract import CORPUS, bound_memory, check

ROOT = Path(__file__).parents[2]
TARGETS = Path(__file__).parent / "targets"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--engine", choices=("auto", "atheris", "random"), default="auto")
    parser.add_argument("--only", action="append", help="a target; all without it")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--replay", type=Path, help="run one input and nothing else")
    parser.add_argument("--seeds", action="store_true", help="write the valid inputs anew")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.only or sorted(m.name for m in pkgutil.iter_modules([str(TARGETS)]))
    if options.child:
        engine.main(
            options.child,
            seconds=options.seconds,
            seed=options.seed,
            engine=options.engine,
            work=options.work,
        )
    elif options.seeds:
        _write_seeds(names)
    elif options.replay:
        _replay(names[0], options.replay)
    else:
        sys.exit(_fuzz(names, options))


def _write_seeds(names: list[str]) -> None:
    for name in names:
        module = importlib.import_module(f"tools.fuzz.targets.{name}")
        directory = CORPUS / name
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("*-valid*"):
            old.unlink()
        for decoder, inputs in module.seeds().items():
            for number, data in enumerate(inputs):
                (directory / f"{decoder}-valid{number}").write_bytes(data)


def _replay(name: str, path: Path) -> None:
    decoders = importlib.import_module(f"tools.fuzz.targets.{name}").DECODERS
    data = path.read_bytes()
    bound_memory()
    decoder = decoders[data[0] % len(decoders)]
    print(f"{decoder.name}: {check(decoder, data[1:]) or 'valid'}")


def _fuzz(names: list[str], options: argparse.Namespace) -> int:
    chosen = options.engine
    if chosen == "auto":
        chosen = "atheris" if importlib.util.find_spec("atheris") else "random"
        if chosen == "random":
            print(
                "atheris is not installed (it has wheels for Linux on x86-64 and Python up to "
                "3.14): random changes instead, WITHOUT COVERAGE"
            )
    waiting, running, failed = list(names), {}, False
    print(
        f"{'target':<10} {'runs':>10} {'runs/s':>8} {'edges':>7} {'valid':>9}  findings", flush=True
    )
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name = waiting.pop(0)
            running[name] = _start(name, chosen, options)
        time.sleep(0.2)
        for name, child in list(running.items()):
            if child.poll() is not None:
                del running[name]
                failed |= _report(name, child.returncode, options.work / name)
    return int(failed)


def _start(name: str, chosen: str, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    work = options.work / name
    work.mkdir(parents=True, exist_ok=True)
    (work / "figures.json").unlink(missing_ok=True)
    arguments = ["--child", name, "--engine", chosen, "--work", str(work)]
    arguments += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (work / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tools.fuzz", *arguments],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


def _report(name: str, code: int, work: Path) -> bool:
    log = (work / "log").read_text(encoding="utf-8", errors="replace")
    figures: dict[str, Any] = {"runs": {}, "raised": {}, "seconds": 0.0}
    if (work / "figures.json").exists():
        figures = json.loads((work / "figures.json").read_text(encoding="utf-8"))
    runs = sum(figures["runs"].values())
    edges = (re.findall(r"cov: (\d+)", log) or ["-"])[-1]
    valid = figures["raised"].get("valid", 0)
    speed = runs / figures["seconds"] if figures["seconds"] else 0.0
    found = "none" if code == 0 else f"ended with {code}; see {work}/log"
    print(f"{name:<10} {runs:>10} {speed:>8.0f} {edges:>7} {valid:>9}  {found}", flush=True)
    if code:
        print("\n".join(log.splitlines()[-40:]), flush=True)
    return code != 0


if __name__ == "__main__":
    main()
