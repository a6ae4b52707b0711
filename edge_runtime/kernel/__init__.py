"""Python face of the C kernel in native/: random numbers, privacy noise, counts, decoding.

Two kinds of randomness, never to be confused: `fill_uniform` and `fill_normal` are public and
repeatable by key (for sampling generators), `PrivacyNoise` is what protects real rows. Every fast
function has a plain counterpart in `edge_runtime.kernel.reference`.
"""

from __future__ import annotations

from edge_runtime.kernel._call import ffi, lib
from edge_runtime.kernel.columns import count_codes, count_pairs, decode_linear
from edge_runtime.kernel.network import Network, Output, network_isa, network_isas
from edge_runtime.kernel.noise import (
    TRAINING_MAX_LOG_DISTANCE,
    TRAINING_SIGMA_INT,
    TRAINING_STATISTICAL_DISTANCE,
    PrivacyNoise,
    effective_noise_multiplier,
    sigma_fraction,
)
from edge_runtime.kernel.streams import STREAM_LIMIT, fill_normal, fill_uniform

__all__ = [
    "STREAM_LIMIT",
    "TRAINING_MAX_LOG_DISTANCE",
    "TRAINING_SIGMA_INT",
    "TRAINING_STATISTICAL_DISTANCE",
    "Network",
    "Output",
    "PrivacyNoise",
    "count_codes",
    "count_pairs",
    "decode_linear",
    "effective_noise_multiplier",
    "fill_normal",
    "fill_uniform",
    "isa",
    "lanes",
    "network_isa",
    "network_isas",
    "sigma_fraction",
]


def isa() -> str:
    """Return the processor family that the kernel was compiled for: "x86-64", "aarch64", ..."""
    return str(ffi.string(lib.er_isa()).decode())


def lanes() -> str:
    """Return which lanes this processor runs: "portable", "avx2" or "avx512"."""
    return str(ffi.string(lib.er_lanes_name()).decode())
