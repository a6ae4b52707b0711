"""A few-step diffusion: a rectified flow of latents, unrolled in the graph, then a decoder.

Run it by ``python -m tools.models.flow --data flights --out models``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from tools.models.autoencoder import fit_autoencoder
from tools.models.build import Steps, Trained
from tools.models.data import Data
from tools.models.network import FloatLayer
from tools.models.training import Blocks, Descent, command, export, perceptron

__all__ = ["train"]

_BATCH = 512
_PAIRS = 40_000
_HEUN_STEPS = 12
#: Sine and cosine of so many multiples of pi * t tell the velocity the time.
_WAVES = 4

_Pairs = Callable[[], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class _Settings:
    latent: int
    hidden: int = 128
    beta: float
    steps: int
    batch: int
    decay: float
    teacher_hidden: int = 256
    teacher_steps: int
    flow_steps: int
    euler_steps: int = 6


_SETTINGS = {
    "digits": _Settings(
        latent=16,
        beta=0.3,
        steps=1500,
        batch=128,
        decay=1e-2,
        teacher_steps=2500,
        flow_steps=2500,
    ),
    "flights": _Settings(
        latent=16,
        beta=0.5,
        steps=2200,
        batch=512,
        decay=1e-4,
        teacher_steps=3000,
        flow_steps=2000,
    ),
}


class Velocity(nn.Module):
    """Where a point at a time moves: a perceptron over the point and waves of the time."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.latent = latent
        self.network = perceptron(latent + 2 * _WAVES, hidden, hidden, latent)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Velocity [rows, L] of points [rows, L] at times [rows, 1]."""
        velocity: torch.Tensor = self.network(torch.cat([x, _waves(t)], dim=1))
        return velocity


def _waves(t: torch.Tensor) -> torch.Tensor:
    angles = t * (torch.arange(1, _WAVES + 1) * math.pi)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def train(data: Data) -> Trained:
    """Train autoencoder, teacher and flow."""
    settings = _SETTINGS[data.name]
    blocks = Blocks(data.codec.cardinalities)
    fitted = fit_autoencoder(
        blocks.one_hot(data.codes),
        blocks,
        latent=settings.latent,
        hidden=settings.hidden,
        beta=settings.beta,
        steps=settings.steps,
        batch=settings.batch,
        decay=settings.decay,
    )

    def latents() -> tuple[torch.Tensor, torch.Tensor]:
        x = fitted.draw(_BATCH)
        return torch.randn_like(x), x

    teacher = Velocity(settings.latent, settings.teacher_hidden)
    _fit(teacher, latents, steps=settings.teacher_steps, times=None)
    noise = torch.randn(_PAIRS, settings.latent)
    taken = _heun(teacher, noise)

    def straight() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(0, _PAIRS, (_BATCH,))
        return noise[chosen], taken[chosen]

    flow = Velocity(settings.latent, settings.hidden)
    _fit(flow, straight, steps=settings.flow_steps, times=settings.euler_steps)
    return Trained(
        kind="flow",
        about=f"Rectified flow of the {data.name} in {settings.euler_steps} steps.",
        decoder=fitted.layers(),
        steps=_steps(flow, settings.euler_steps),
        settings=asdict(settings),
    )


def _fit(velocity: Velocity, pairs: _Pairs, *, steps: int, times: int | None) -> None:
    """Learn the mean way from x0 to x1, at any time or at the first `times` of k / times."""
    descent = Descent([velocity], steps=steps)
    for _ in range(steps):
        start, end = pairs()
        shape = (len(start), 1)
        t = torch.rand(shape) if times is None else torch.randint(0, times, shape) / times
        found = velocity(torch.lerp(start, end, t), t)
        descent.step((found - (end - start)).square().mean())


@torch.no_grad()
def _heun(velocity: Velocity, x: torch.Tensor) -> torch.Tensor:
    size = 1 / _HEUN_STEPS
    for step in range(_HEUN_STEPS):
        t = torch.full((len(x), 1), step * size)
        first = velocity(x, t)
        x = x + (first + velocity(x + first * size, t + size)) * (size / 2)
    return x


def _steps(flow: Velocity, count: int) -> Steps:
    """Fold each step's time into a bias, and the step's length into the last layer."""
    first, *inner, last = export(flow.network)
    waves = _waves(torch.arange(count)[:, None] / count).numpy()
    length = np.float32(count)  # a step takes that part of the way
    biases = first.bias + waves @ first.weight[flow.latent :]
    return Steps(
        layers=[
            FloatLayer(weight=first.weight[: flow.latent], bias=first.bias),
            *inner,
            FloatLayer(weight=last.weight / length, bias=last.bias / length),
        ],
        first_biases=list(biases),
    )


if __name__ == "__main__":
    command(__doc__, train)
