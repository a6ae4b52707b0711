"""What the training scripts share: one-hot blocks, small networks, the command line."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tools.models.build import Trained, build
from tools.models.data import TABLES, Data, load_data
from tools.models.network import FloatLayer

__all__ = ["Blocks", "Descent", "batches", "command", "export", "perceptron"]

#: The largest step of every training here.
_RATE = 2e-3


def perceptron(*widths: int) -> nn.Sequential:
    """Return linear layers of these widths with rectified units between them."""
    parts: list[nn.Module] = []
    for a, b in pairwise(widths):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def export(network: nn.Sequential) -> list[FloatLayer]:
    """Return the linear layers as arrays."""
    return [
        FloatLayer(
            weight=np.ascontiguousarray(part.weight.detach().numpy().T),
            bias=part.bias.detach().numpy().copy(),
        )
        for part in network
        if isinstance(part, nn.Linear)
    ]


def batches(rows: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Yield batches of one size for ever, shuffled anew in every pass."""
    while True:
        order = torch.randperm(len(rows))
        for start in range(0, len(rows) - size + 1, size):
            yield rows[order[start : start + size]]


class Blocks:
    """Columns of K codes each, side by side in V numbers."""

    def __init__(self, cardinalities: Sequence[int]) -> None:
        sizes = torch.tensor(list(cardinalities))
        self.width = int(sizes.sum())
        self.columns = len(sizes)
        self._offsets = torch.cumsum(sizes, 0) - sizes
        self._owner = torch.repeat_interleave(torch.arange(self.columns), sizes)
        self._member = nn.functional.one_hot(self._owner, self.columns).float()

    def one_hot(self, codes: npt.NDArray[np.int32]) -> torch.Tensor:
        """Turn codes [rows, D] into float32 [rows, V]."""
        hot = torch.zeros(len(codes), self.width)
        return hot.scatter_(1, torch.from_numpy(codes).long() + self._offsets, 1.0)

    def log_softmax(self, logits: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities [rows, V], every column on its own."""
        with torch.no_grad():
            owner = self._owner.expand(len(logits), -1)
            top = torch.full((len(logits), self.columns), -torch.inf)
            top = top.scatter_reduce(1, owner, logits, "amax")
            shift = top @ self._member.T
        centred = logits - shift
        sums = centred.exp() @ self._member
        return centred - sums.log() @ self._member.T

    def cross_entropy(self, logits: torch.Tensor, hot: torch.Tensor) -> torch.Tensor:
        """Return nats per row, [rows]."""
        return -(self.log_softmax(logits) * hot).sum(dim=1)


class Descent:
    """AdamW whose rate rises over a tenth of the steps and then falls to nothing."""

    def __init__(self, parts: Sequence[nn.Module], *, steps: int, decay: float = 0.0) -> None:
        weights = [weight for part in parts for weight in part.parameters()]
        self._adam = torch.optim.AdamW(weights, _RATE, weight_decay=decay)
        self._rate = torch.optim.lr_scheduler.OneCycleLR(
            self._adam, _RATE, total_steps=steps, pct_start=0.1
        )

    def step(self, loss: torch.Tensor) -> None:
        """Go down the gradient once."""
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        self._rate.step()


def command(module_doc: str, train: Callable[[Data], Trained]) -> None:
    """Read the command line, train, and write the example's folder.

    One seed and one thread: sums are made in one order.
    """
    parser = argparse.ArgumentParser(description=module_doc.splitlines()[0])
    parser.add_argument("--data", choices=sorted(TABLES), required=True)
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = load_data(options.data)
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    start = time.perf_counter()
    trained = train(data)
    seconds = time.perf_counter() - start
    settings = {"seed": options.seed, "torch": torch.__version__, **trained.settings}
    build(data, replace(trained, settings=settings, seconds=seconds), options.out)
