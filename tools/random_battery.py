"""Run batteries of randomness tests over the kernel's uniform stream.

    python tools/random_battery.py [--short] [--key HEX] [--smallcrush]

The stream is the 24 bits behind each number of `kernel.fill_uniform`, three bytes each, packed
into 32-bit words: exactly what a user of the numbers gets. `dieharder` (Debian package of that
name) reads it from a pipe; --short runs a dozen of its tests in under a minute, otherwise all of
them, in hours. --smallcrush adds TestU01's SmallCrush, compiled here, where its headers and
library are installed.

A battery of many tests calls a good generator weak now and then: p-values are judged together, so
that a right stream fails once in a hundred keys (Bonferroni). The key is fixed unless given.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_runtime import kernel

PART = 1 << 20
ALPHA = 0.01
#: dieharder's tests by number: those that see most for their time, none that it calls suspect
SHORT_TESTS = (0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 15, 100, 101)
KEY = bytes(range(32))
SMALLCRUSH = """
#include <stdio.h>
#include "unif01.h"
#include "bbattery.h"
static unsigned int next(void)
{
    unsigned int x;
    if (fread(&x, sizeof x, 1, stdin) != 1)
        return 0;
    return x;
}
int main(void)
{
    unif01_Gen *g = unif01_CreateExternGenBits("kernel", next);
    bbattery_SmallCrush(g);
    unif01_DeleteExternGenBits(g);
    for (int i = 0; i < bbattery_NTests; i++)
        printf("PVALUE %s %.17g\\n", bbattery_TestNames[i] ? bbattery_TestNames[i] : "?",
               bbattery_pVal[i]);
    return 0;
}
"""


def feed(pipe: BinaryIO, key: bytes) -> None:
    """Write the stream until the reader has enough."""
    numbers = np.empty(PART * 4, np.float32)
    fill = kernel.PreparedFill("uniform", numbers, key=key, stream=0)
    offset = 0
    try:
        while True:
            fill(offset)
            offset += numbers.size
            bits = (numbers * np.float32(2**24)).astype("<u4")
            pipe.write(bits.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    except BrokenPipeError:
        pass


def through(command: Sequence[str], key: bytes) -> str:
    """Run a program that reads the stream, and return what it prints."""
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=printed)
        assert process.stdin is not None
        feed(process.stdin, key)
        with contextlib.suppress(BrokenPipeError):  # it has read enough
            process.stdin.close()
        if process.wait() != 0:
            raise SystemExit(f"{command[0]} failed with {process.returncode}")
        printed.seek(0)
        return printed.read()


def dieharder(tests: Sequence[int] | None, key: bytes) -> list[tuple[str, float]]:
    """Return names and p-values of dieharder's tests, all of them for None."""
    program = shutil.which("dieharder")
    if program is None:
        raise SystemExit("dieharder is not installed (apt-get install dieharder)")
    # generator 200 reads raw words from standard input; -D asks for name, n-tuple and p-value
    options = ["-g", "200", "-D", "test_name", "-D", "ntuple", "-D", "pvalues"]
    runs = [["-a"]] if tests is None else [["-d", str(test)] for test in tests]
    found = []
    for number, run in enumerate(runs):
        # each run starts at the head of a stream: another key, so that runs are independent
        own = bytes([*key[:31], key[31] ^ number])
        for line in through([program, *options, *run], own).splitlines():
            words = [word.strip() for word in line.split("|")]
            try:
                found.append((" ".join(words[:-1]), float(words[-1])))
            except ValueError:
                continue
    return found


def smallcrush(key: bytes) -> list[tuple[str, float]]:
    """Compile and run TestU01's SmallCrush; return names and p-values."""
    with tempfile.TemporaryDirectory() as directory:
        source, program = Path(directory, "crush.c"), Path(directory, "crush")
        source.write_text(SMALLCRUSH, encoding="utf-8")
        libraries = ["-ltestu01", "-lprobdist", "-lmylib", "-lm"]
        built = subprocess.run(
            ["cc", "-O2", "-o", str(program), str(source), *libraries], check=False
        )
        if built.returncode != 0:
            raise SystemExit("TestU01 is not installed (headers and libraries)")
        printed = through([str(program)], key)
    lines = [line.split() for line in printed.splitlines() if line.startswith("PVALUE ")]
    return [(" ".join(words[1:-1]), float(words[-1])) for words in lines]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print p-values; 1 if a battery finds the stream at fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a dozen tests instead of all")
    parser.add_argument("--smallcrush", action="store_true", help="TestU01's SmallCrush as well")
    parser.add_argument("--key", type=bytes.fromhex, default=KEY, help="32 bytes in hexadecimal")
    options = parser.parse_args(arguments)
    results = dieharder(SHORT_TESTS if options.short else None, options.key)
    if options.smallcrush:
        results += smallcrush(options.key)
    if not results:
        print("no test ran")
        return 1
    threshold = ALPHA / (2 * len(results))
    bad = [name for name, p in results if not threshold < p < 1 - threshold]
    for name, p in results:
        print(f"{p:12.6g}  {name}{'  FAILED' if name in bad else ''}")
    print(f"{len(results)} p-values, threshold {threshold:.2g} on each side: {len(bad)} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
