"""An adversarial generator: noise to latents, which an autoencoder's decoder turns into rows.

Run it by ``python -m tools.models.gan --data flights --out models``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from tools.models.autoencoder import Autoencoder, fit_autoencoder
from tools.models.build import Trained
from tools.models.data import Data
from tools.models.network import FloatLayer
from tools.models.training import Blocks, command, export, perceptron

__all__ = ["train"]

#: Weight of the critic's slope. 10 is usual for images; latents are a few numbers of deviation 1.
_PENALTY = 1.0
#: Of the average over the generator's weights, by step.
_KEEP = 0.998


@dataclass(frozen=True, kw_only=True)
class _Settings:
    latent: int = 16
    hidden: int = 128
    beta: float
    steps: int
    batch: int
    decay: float
    # Of generator against critic; those above are of the autoencoder.
    noise: int = 16
    critic_hidden: int = 192
    critic_steps: int = 3
    game_rate: float = 5e-4
    game_batch: int = 256
    game_steps: int


_SETTINGS = {
    "digits": _Settings(beta=0.3, steps=1500, batch=128, decay=1e-2, game_steps=4000),
    "flights": _Settings(beta=0.5, steps=2200, batch=512, decay=1e-4, game_steps=4000),
}


def train(data: Data) -> Trained:
    """Train the autoencoder, then the generator of its latents."""
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
    game = _Game(fitted, settings)
    for step in range(settings.game_steps):
        game.play(step)
    return Trained(
        kind="gan",
        about=f"Adversarial generator of the {data.name}.",
        decoder=_joined(export(game.average), fitted.layers()),
        settings=asdict(settings),
    )


class _Game:
    """A critic that tells latents of real rows from made ones, against the generator of these."""

    def __init__(self, fitted: Autoencoder, settings: _Settings) -> None:
        self._fitted = fitted
        self._settings = settings
        hidden, critic = settings.hidden, settings.critic_hidden
        self._generator = perceptron(settings.noise, hidden, hidden, settings.latent)
        self.average = copy.deepcopy(self._generator)
        self._critic = perceptron(settings.latent, critic, critic, 1)
        self._generator_descent, self._critic_descent = (
            torch.optim.Adam(part.parameters(), settings.game_rate, betas=(0.5, 0.9))
            for part in (self._generator, self._critic)
        )

    def play(self, step: int) -> None:
        """Move the critic a few times and the generator once."""
        # The rate falls to nothing over the second half.
        share = min(1.0, 2 * (1 - step / self._settings.game_steps))
        for optimiser in (self._generator_descent, self._critic_descent):
            optimiser.param_groups[0]["lr"] = share * self._settings.game_rate
        for _ in range(self._settings.critic_steps):
            self._move_critic()
        _step(self._generator_descent, -self._critic(self._made()).mean())
        keep = min(_KEEP, step / (step + 10))
        with torch.no_grad():
            for kept, new in zip(
                self.average.parameters(), self._generator.parameters(), strict=True
            ):
                kept.lerp_(new, 1 - keep)

    def _move_critic(self) -> None:
        real = self._fitted.draw(self._settings.game_batch)
        with torch.no_grad():
            made = self._made()
        between = torch.lerp(made, real, torch.rand(len(real), 1)).requires_grad_()
        (slope,) = torch.autograd.grad(self._critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        distance = self._critic(real).mean() - self._critic(made).mean()
        _step(self._critic_descent, _PENALTY * penalty - distance)

    def _made(self) -> torch.Tensor:
        made: torch.Tensor = self._generator(
            torch.randn(self._settings.game_batch, self._settings.noise)
        )
        return made


def _step(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _joined(generator: Sequence[FloatLayer], decoder: Sequence[FloatLayer]) -> list[FloatLayer]:
    """Make one perceptron of both: nothing bends the latents between two linear layers."""
    *before, last = generator
    first, *after = decoder
    middle = FloatLayer(
        weight=last.weight @ first.weight, bias=last.bias @ first.weight + first.bias
    )
    return [*before, middle, *after]


if __name__ == "__main__":
    command(__doc__, train)
