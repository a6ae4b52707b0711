"""Runs one target in this process until the time is over or the contract is broken.

With atheris (libFuzzer, coverage-guided) where it is installed, and else with random changes of
the same kept inputs under the same contract: weaker, but never nothing.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

__all__ = ["main"]

_MOST_BYTES = 1 << 16
_MEGABYTES = 2048
#: wall clock of one input, for what never comes back; the contract counts processor time
_TIMEOUT_S = 30
#: what atheris instruments: this project, and what it parses with that is written in Python
_INSTRUMENTED = ["edge_runtime", "tools.fuzz.targets", "tomllib", "pickletools", "tuf", "gzip"]


def main(target: str, *, seconds: int, seed: int, engine: str, work: Path) -> None:
    """Fuzz one target; what is found is left in `work`.

    Parameters
    ----------
    target : str
        Name of a module of `tools.fuzz.targets`.
    seconds : int
        How long.
    seed : int
        0: another one each time.
    engine : {"atheris", "random"}
        What makes the inputs.
    work : Path
        Directory for new inputs (``corpus``), the input that broke the contract and the figures.
    """
    (_atheris if engine == "atheris" else _random)(target, seconds, seed, work)


class _Session:
    """The decoders of a target, and figures about them."""

    def __init__(self, target: str, work: Path) -> None:
        from tools.fuzz import contract  # below the instrumentation, as it imports the project

        self._contract = contract
        self.decoders: Sequence[Any] = importlib.import_module(
            f"tools.fuzz.targets.{target}"
        ).DECODERS
        # The first byte of an input chooses the decoder.
        self.inputs = [
            bytes([number]) + path.read_bytes()
            for number, path in contract.inputs_of(target, self.decoders)
        ]
        self._runs: Counter[str] = Counter()
        self._raised: Counter[str] = Counter()
        self._start = time.monotonic()
        self._at = 0.0
        self._figures = work / "figures.json"

    def decoder(self, data: bytes) -> Any:
        return self.decoders[data[0] % len(self.decoders)]

    def check(self, data: bytes) -> None:
        if not data:
            return
        decoder = self.decoder(data)
        raised = self._contract.check(decoder, data[1:])
        self._runs[decoder.name] += 1
        self._raised[raised or "valid"] += 1
        # libFuzzer ends the process itself, so the figures are written as they come.
        now = time.monotonic()
        if now - self._at > 1.0:
            self._at = now
            self.write()

    def write(self) -> None:
        figures = {
            "runs": dict(self._runs),
            "raised": dict(self._raised),
            "seconds": round(time.monotonic() - self._start, 1),
        }
        self._figures.write_text(json.dumps(figures), encoding="utf-8")

    def mutate(self, data: bytes, random: Random, otherwise: Any) -> bytes:
        decoder = self.decoder(data)
        if decoder.mutate is not None and random.random() < 0.7:
            return data[:1] + bytes(decoder.mutate(data[1:], random))[: _MOST_BYTES - 1]
        if random.random() < 0.02:
            return bytes([random.randrange(len(self.decoders))]) + data[1:]
        return bytes(data[:1] + otherwise(data[1:]))

    def bound_memory(self) -> None:
        self._contract.bound_memory()


def _atheris(target: str, seconds: int, seed: int, work: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        session = _Session(target, work)

    seeds = work / "seeds"
    seeds.mkdir(exist_ok=True)
    for number, data in enumerate(session.inputs):
        (seeds / f"{number:04}").write_bytes(data)

    def mutate(data: bytes, most: int, given: int) -> bytes:
        if not data:
            data = session.inputs[given % len(session.inputs)]
        changed: bytes = session.mutate(
            data, Random(given), lambda rest: atheris.Mutate(rest, max(1, most - 1))
        )
        return changed[:most]

    session.bound_memory()
    (work / "corpus").mkdir(exist_ok=True)
    options = [
        f"-max_total_time={seconds}", f"-max_len={_MOST_BYTES}", f"-timeout={_TIMEOUT_S}",
        f"-rss_limit_mb={_MEGABYTES}", f"-seed={seed}", f"-artifact_prefix={work}/",
        "-print_final_stats=1", str(work / "corpus"), str(seeds),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], session.check, custom_mutator=mutate)
    atheris.Fuzz()


def _random(target: str, seconds: int, seed: int, work: Path) -> None:
    from tools.fuzz.mutations import mutate_bytes

    session = _Session(target, work)
    session.bound_memory()
    random = Random(seed or None)
    data = b""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"an input takes more than {_TIMEOUT_S} s")

    signal.signal(signal.SIGALRM, give_up)
    end = time.monotonic() + seconds
    waiting = list(session.inputs)
    try:
        while time.monotonic() < end:
            if waiting:
                data = waiting.pop()
            else:
                data = random.choice(session.inputs)
                for _ in range(1 + random.randrange(3)):
                    data = session.mutate(data, random, lambda rest: mutate_bytes(rest, random))
            signal.alarm(_TIMEOUT_S)
            session.check(data[:_MOST_BYTES])
        signal.alarm(0)
    except BaseException:
        (work / "crash-random").write_bytes(data)
        raise
    finally:
        session.write()
