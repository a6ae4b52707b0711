"""What is tried for each peer, on validation rows, per task and privacy level.

The search goes in stages so that a setting is only tried around what already works: a full grid
over learning rate and local work first, then what refines the best of it. Published with the
results; a peer that is not tuned proves nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

from tools.bench.federation.client import Choice

__all__ = ["GRIDS", "Search", "search"]

#: rows a step without privacy: small tasks, flights
BATCH, BATCH_FLIGHTS = 32, 256

#: without privacy every setting is tried this far, and the best of them to the end
ROUNDS, FIRST_ROUNDS, FIRST_KEPT = 50, 15, 4
LOOSER_KEPT = 8
#: at the end the few best run with more seeds, and the best mean is chosen
CONFIRMED, CONFIRMED_SEEDS = 3, 3
#: how often the rate is halved and doubled around the best, as long as that helps
EDGE_STEPS = 2

GRIDS = {
    "without privacy": {
        "rounds": [50],
        "first": "every setting for 15 rounds, the 4 best for all 50",
        "SGD rate": [0.03, 0.1, 0.3, 1.0],
        "Adam rate": [0.001, 0.003, 0.01],
        "epochs": [1, 2, 5],
        "epochs, flights": [1, 2],
        "FedProx mu, on the choice for FedAvg, and at half its rate": [0.001, 0.01, 0.1, 1.0],
        "FedAdam server rate": [0.003, 0.01, 0.03, 0.1],
        "FedAdam local SGD rate": [0.03, 0.1, 0.3],
        "then, for the best": ("rate halved and doubled, up to twice; rate falling to a twentieth"),
    },
    "at the end": "the 3 best with 3 seeds; the best mean is chosen",
    "with privacy": {
        "at epsilon 2": "the 8 best of epsilon 8 in place of the grid",
        "(rounds, local steps)": [[10, 1], [50, 1], [50, 5]],
        "sampling": [0.25, 1.0],
        "sampling, flights": [0.02, 0.1],
        "clip": [1.0],
        "SGD rate": [0.3, 1.0, 3.0],
        "FedProx mu, on the choice for FedAvg, and at half its rate": [0.01, 0.1, 1.0],
        "FedAdam server rate": [0.003, 0.01, 0.03, 0.1],
        "FedAdam local SGD rate": [1.0],
        "then, for the best": (
            "clip 0.3 and 3 at the same rate * clip; (5, 1), (20, 1), (100, 1), (200, 1), "
            "(20, 5) and (20, 20) rounds and steps; rate halved and doubled, up to twice; rate "
            "falling to a twentieth"
        ),
    },
}

#: runs a choice with a seed and returns its score on validation rows
Trial = Callable[[Choice, int], float]


class Search:
    """Remembers what was tried for one system.

    Parameters
    ----------
    trial : callable
        Of `Choice` and seed, to the score on validation rows.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.found: dict[Choice, float] = {}
        self.confirmed: dict[Choice, float] = {}

    def run(self, choices: Iterator[Choice] | list[Choice]) -> None:
        """Score those that were not scored yet."""
        for choice in choices:
            if choice not in self.found:
                self.found[choice] = self._trial(choice, 0)

    def confirm(self) -> Choice:
        """Return the best of the few best after more seeds, so that luck does not choose."""
        if self.confirmed:
            return max(self.confirmed, key=lambda choice: self.confirmed[choice])
        for choice in self.best(CONFIRMED):
            more = [self._trial(choice, seed) for seed in range(1, CONFIRMED_SEEDS)]
            self.confirmed[choice] = (self.found[choice] + sum(more)) / CONFIRMED_SEEDS
        return max(self.confirmed, key=lambda choice: self.confirmed[choice])

    def best(self, count: int = 1) -> list[Choice]:
        """Return the best so far, best first."""
        return sorted(self.found, key=lambda choice: -self.found[choice])[:count]


def search(
    system: str,
    trial: Trial,
    *,
    private: bool,
    flights: bool,
    fedavg: Search | None,
    looser: Search | None = None,
) -> Search:
    """Tune one peer.

    Parameters
    ----------
    system : str
    trial : callable
    private, flights : bool
    fedavg : Search, optional
        What was found for FedAvg; FedProx starts from it.
    looser : Search, optional
        What was found for the same system under a larger epsilon; starts from its best.

    Returns
    -------
    Search
    """
    run = Search(trial)
    if system == "FedProx":
        assert fedavg is not None
        base = fedavg.confirm()
        bases = (base, replace(base, learning_rate=base.learning_rate / 2))
        mus = (0.01, 0.1, 1.0) if private else (0.001, 0.01, 0.1, 1.0)
        run.run([replace(c, mu=mu) for c, mu in itertools.product(bases, mus)])
        return run
    if looser is not None:
        run.run(looser.best(LOOSER_KEPT))
    elif private:
        run.run(_private(system, flights))
    else:
        first = Search(trial)
        first.run([replace(choice, rounds=FIRST_ROUNDS) for choice in _plain(system, flights)])
        run.run([replace(choice, rounds=ROUNDS) for choice in first.best(FIRST_KEPT)])
    best = run.best()[0]
    if private:
        run.run(
            [
                replace(best, clip=clip, learning_rate=best.learning_rate / clip)
                for clip in (0.3, 3.0)
            ]
        )
        best = run.best()[0]
        run.run(
            [
                replace(best, rounds=rounds, steps=steps)
                for rounds, steps in ((5, 1), (20, 1), (100, 1), (200, 1), (20, 5), (20, 20))
            ]
        )
    # the best rate may lie beyond the grid's edge
    for _ in range(EDGE_STEPS):
        best = run.best()[0]
        run.run(_around(system, best))
        if run.best()[0] == best:
            break
    run.run([replace(run.best()[0], final_rate=0.05)])
    return run


def _around(system: str, best: Choice) -> list[Choice]:
    if system == "FedAdam":
        return [replace(best, server_rate=best.server_rate * factor) for factor in (0.5, 2.0)]
    return [replace(best, learning_rate=best.learning_rate * factor) for factor in (0.5, 2.0)]


def _plain(system: str, flights: bool) -> Iterator[Choice]:
    batch = BATCH_FLIGHTS if flights else BATCH
    epochs = (1, 2) if flights else (1, 2, 5)
    if system == "FedAdam":
        for server, rate, passes in itertools.product(
            (0.003, 0.01, 0.03, 0.1), (0.03, 0.1, 0.3), epochs[:2]
        ):
            yield Choice(learning_rate=rate, server_rate=server, epochs=passes, batch=batch)
        return
    for rate, passes in itertools.product((0.03, 0.1, 0.3, 1.0), epochs):
        yield Choice(learning_rate=rate, epochs=passes, batch=batch)
    if system == "FedAvg":
        for rate, passes in itertools.product((0.001, 0.003, 0.01), epochs):
            yield Choice(learning_rate=rate, epochs=passes, batch=batch, optimiser="adam")


def _private(system: str, flights: bool) -> Iterator[Choice]:
    for (rounds, steps), sampling in itertools.product(
        ((10, 1), (50, 1), (50, 5)), (0.02, 0.1) if flights else (0.25, 1.0)
    ):
        base = Choice(rounds=rounds, learning_rate=1.0, steps=steps, sampling=sampling, clip=1.0)
        if system == "FedAdam":
            for server in (0.003, 0.01, 0.03, 0.1):
                yield replace(base, server_rate=server)
        else:
            for rate in (0.3, 1.0, 3.0):
                yield replace(base, learning_rate=rate)
