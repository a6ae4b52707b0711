"""Signed updates: The Update Framework over one retained message (docs/updates.md).

`keys` and `repository` make and sign metadata, on the machines of whoever runs the fleet.
`verify` checks it with python-tuf, in a process of its own that `trust` starts on the device: so
the agent is not the larger by what python-tuf and its cryptography take (12 MB).
"""

from __future__ import annotations

from edge_runtime.updates.envelope import Envelope, Target, decode_envelope, encode_envelope
from edge_runtime.updates.trust import Trusted, Verdict, verify_apart

__all__ = [
    "Envelope",
    "Target",
    "Trusted",
    "Verdict",
    "decode_envelope",
    "encode_envelope",
    "verify_apart",
]
