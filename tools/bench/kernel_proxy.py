"""Print instructions per number of the kernel's loops on aarch64, under an emulator: a proxy.

    python tools/bench/kernel_proxy.py

No board is needed: native/bench/proxy.c is cross-compiled and run under qemu-user, which executes
one instruction at a time and logs each; the difference between two sizes leaves the start of the
program out. Instructions are not time: an in-order Cortex-A53 retires one to two a cycle, an A76
up to four, and neither caches nor latencies show. Needs aarch64-linux-gnu-gcc and qemu-
aarch64-static.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
FLAGS = ["-std=c99", "-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"]
#: primitive, smaller and larger size
CASES = [
    ("uniform", 2048, 4096),
    ("normal", 2048, 4096),
    ("exponential", 2048, 4096),
    ("categorical", 32, 64),
    ("decode", 2048, 4096),
    ("timestamps", 2048, 4096),
    ("pairs", 2048, 4096),
    ("pack", 2048, 4096),
    ("unpack", 2048, 4096),
    ("training", 2048, 4096),
    ("generator neon", 64, 128),
    ("generator dotprod", 64, 128),
]


def instructions(program: Path, name: str, size: int) -> int:
    """Count the lines of the emulator's log: one for each instruction that was executed."""
    log = program.with_suffix(".log")
    command = [EMULATOR, "-cpu", "max", "-singlestep", "-d", "exec,nochain", "-D", str(log)]
    subprocess.run([*command, str(program), name, str(size)], check=True, timeout=600)
    with log.open("rb") as lines:
        count = sum(1 for line in lines if line.startswith(b"Trace"))
    log.unlink()
    return count


def main() -> int:
    """Print the table; 2 if the tools are missing."""
    missing = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}")
        return 2
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "proxy")
        sources = [ROOT / "native/bench/proxy.c", *(ROOT / "native/src").glob("*.c")]
        output = ["-mcpu=cortex-a53", "-static", "-o", str(program)]
        subprocess.run([COMPILER, *FLAGS, *output, *map(str, sources), "-lm"], check=True)
        print("| | instructions per number, aarch64 |\n| --- | --- |")
        for name, small, large in CASES:
            more = instructions(program, name, large) - instructions(program, name, small)
            print(f"| {name} | {more / (large - small):.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
