"""A variational decoder: latent noise to logits of independent columns.

Run it by ``python -m tools.models.vae --data flights --out models``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tools.models.autoencoder import fit_autoencoder
from tools.models.build import Trained
from tools.models.data import Data
from tools.models.training import Blocks, command, export

__all__ = ["train"]


@dataclass(frozen=True, kw_only=True)
class _Settings:
    latent: int = 16
    hidden: int = 128
    beta: float
    steps: int
    batch: int
    decay: float


_SETTINGS = {
    "digits": _Settings(beta=0.5, steps=2000, batch=128, decay=1e-2),
    "flights": _Settings(beta=0.7, steps=4000, batch=512, decay=1e-4),
}


def train(data: Data) -> Trained:
    """Train the decoder."""
    settings = asdict(_SETTINGS[data.name])
    blocks = Blocks(data.codec.cardinalities)
    fitted = fit_autoencoder(blocks.one_hot(data.codes), blocks, **settings)
    return Trained(
        kind="vae",
        about=f"Variational decoder of the {data.name}.",
        decoder=export(fitted.decoder),
        settings=settings,
    )


if __name__ == "__main__":
    command(__doc__, train)
