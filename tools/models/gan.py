"""An adversarial generator of discrete rows, with what keeps it from collapsing.

Run it by ``python -m tools.models.gan --data flights --out models``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import nn

from tools.models.build import Trained
from tools.models.data import Data
from tools.models.training import Blocks, Descent, batches, command, export, perceptron

__all__ = ["train"]

_PENALTY = 10.0
#: Of the average over the generator's weights, by step.
_KEEP = 0.998
_CLASSIFIER_STEPS = 600


@dataclass(frozen=True, kw_only=True)
class _Settings:
    latent: int = 32
    hidden: int = 128
    critic_hidden: int
    critic_steps: int
    rate: float
    temperature: float = 0.3
    pack: int
    steps: int
    batch: int
    classifier_weight: float


_SETTINGS = {
    "digits": _Settings(
        critic_hidden=192,
        critic_steps=2,
        rate=5e-4,
        pack=2,
        steps=2200,
        batch=128,
        classifier_weight=1.0,
    ),
    "flights": _Settings(
        critic_hidden=192,
        critic_steps=2,
        rate=5e-4,
        pack=8,
        steps=3000,
        batch=512,
        classifier_weight=0.3,
    ),
}


def train(data: Data) -> Trained:
    """Train the generator."""
    settings = _SETTINGS[data.name]
    blocks = Blocks(data.codec.cardinalities)
    rows = blocks.one_hot(data.codes)
    generator = perceptron(settings.latent, settings.hidden, settings.hidden, blocks.width)
    with torch.no_grad():
        # It starts with the columns' own distributions, independent of each other.
        last = generator[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(rows.mean(dim=0).clamp_min(1e-4).log())
    target = blocks.span(data.schema.names.index(data.target))
    game = _Game(generator, blocks, rows, target, settings)
    for step in range(settings.steps):
        game.play(step)
    return Trained(
        kind="gan",
        about=f"Adversarial generator of the {data.name}.",
        decoder=export(game.average),
        settings=asdict(settings),
    )


def _target_classifier(rows: torch.Tensor, target: slice, batch: int) -> nn.Sequential:
    """Learn the target's code from the row's other columns."""
    width = target.stop - target.start
    classifier = perceptron(rows.shape[1] - width, 64, width)
    descent = Descent([classifier], steps=_CLASSIFIER_STEPS, decay=1e-2)
    source = batches(rows, batch)
    for _ in range(_CLASSIFIER_STEPS):
        descent.step(_mismatch(classifier, next(source), target))
    return classifier.requires_grad_(requires_grad=False)


def _mismatch(classifier: nn.Sequential, rows: torch.Tensor, target: slice) -> torch.Tensor:
    """Cross-entropy between a row's target and what the classifier makes of the rest, in nats."""
    rest = torch.cat([rows[:, : target.start], rows[:, target.stop :]], dim=1)
    # The target follows the rest and not the reverse: else the rest learns to fool the classifier.
    rest = rest.detach()
    return -(classifier(rest).log_softmax(dim=1) * rows[:, target]).sum(dim=1).mean()


class _Game:
    """Critic against generator."""

    def __init__(
        self,
        generator: nn.Sequential,
        blocks: Blocks,
        rows: torch.Tensor,
        target: slice,
        settings: _Settings,
    ) -> None:
        self._settings = settings
        self._blocks = blocks
        self._target = target
        self._generator = generator
        self.average = copy.deepcopy(generator)
        self._classifier = _target_classifier(rows, target, settings.batch)
        width = blocks.width * settings.pack
        hidden = settings.critic_hidden
        self._critic = nn.Sequential(
            nn.Linear(width, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )
        self._real: Iterator[torch.Tensor] = batches(rows, settings.batch)
        self._moves = [
            torch.optim.Adam(part.parameters(), settings.rate, betas=(0.5, 0.9))
            for part in (self._generator, self._critic)
        ]

    def play(self, step: int) -> None:
        """Move the critic a few times and the generator once."""
        # The rate falls to nothing over the second half.
        rate = self._settings.rate * min(1.0, 2 * (1 - step / self._settings.steps))
        for optimiser in self._moves:
            optimiser.param_groups[0]["lr"] = rate
        for _ in range(self._settings.critic_steps):
            self._move_critic()
        drawn = self._draw()
        loss = -self._critic(self._packed(drawn)).mean()
        # Little at first: of rows that are still noise the classifier knows nothing.
        weight = self._settings.classifier_weight * step / self._settings.steps
        loss = loss + weight * _mismatch(self._classifier, drawn, self._target)
        self._moves[0].zero_grad()
        loss.backward()
        self._moves[0].step()
        keep = min(_KEEP, step / (step + 10))
        with torch.no_grad():
            for kept, new in zip(
                self.average.parameters(), self._generator.parameters(), strict=True
            ):
                kept.lerp_(new, 1 - keep)

    def _move_critic(self) -> None:
        real = self._packed(next(self._real))
        with torch.no_grad():
            fake = self._packed(self._draw())
        between = torch.lerp(fake, real, torch.rand(len(real), 1)).requires_grad_()
        (slope,) = torch.autograd.grad(self._critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        loss = self._critic(fake).mean() - self._critic(real).mean() + _PENALTY * penalty
        self._moves[1].zero_grad()
        loss.backward()
        self._moves[1].step()

    def _draw(self) -> torch.Tensor:
        noise = torch.randn(self._settings.batch, self._settings.latent)
        return self._blocks.soft_draw(self._generator(noise), self._settings.temperature)

    def _packed(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(-1, self._blocks.width * self._settings.pack)


if __name__ == "__main__":
    command(__doc__, train)
