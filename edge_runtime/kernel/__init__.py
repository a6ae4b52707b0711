"""Python face of the C kernel in native/: random numbers, privacy noise, counts, decoding.

Two kinds of randomness, never to be confused: `fill_uniform` and its like are public and repeatable
by key (for sampling generators), `PrivacyNoise` is what protects real rows. Every fast function has
a plain counterpart in `edge_runtime.kernel.reference` or `reference_rows`. The environment variable
`EDGE_RUNTIME_ISA` forces an instruction set; the results are the same bits from each.
"""

from __future__ import annotations

from edge_runtime.kernel.bits import pack_bits, packed_bytes, unpack_bits
from edge_runtime.kernel.categorical import categorical
from edge_runtime.kernel.columns import count_codes, count_pairs, decode_linear, decode_timestamp
from edge_runtime.kernel.isa import (
    ISA_VARIABLE,
    available_isas,
    isa,
    lanes,
    select_from_environment,
    select_isa,
)
from edge_runtime.kernel.network import Network, Output, network_isa, network_isas
from edge_runtime.kernel.noise import (
    TRAINING_MAX_LOG_DISTANCE,
    TRAINING_SIGMA_INT,
    TRAINING_STATISTICAL_DISTANCE,
    PrivacyNoise,
    effective_noise_multiplier,
    sigma_fraction,
)
from edge_runtime.kernel.streams import (
    STREAM_LIMIT,
    PreparedFill,
    fill_exponential,
    fill_normal,
    fill_uniform,
)

__all__ = [
    "ISA_VARIABLE",
    "STREAM_LIMIT",
    "TRAINING_MAX_LOG_DISTANCE",
    "TRAINING_SIGMA_INT",
    "TRAINING_STATISTICAL_DISTANCE",
    "Network",
    "Output",
    "PreparedFill",
    "PrivacyNoise",
    "available_isas",
    "categorical",
    "count_codes",
    "count_pairs",
    "decode_linear",
    "decode_timestamp",
    "effective_noise_multiplier",
    "fill_exponential",
    "fill_normal",
    "fill_uniform",
    "isa",
    "lanes",
    "network_isa",
    "network_isas",
    "pack_bits",
    "packed_bytes",
    "select_isa",
    "sigma_fraction",
    "unpack_bits",
]

select_from_environment()
