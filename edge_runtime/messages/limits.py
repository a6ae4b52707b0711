"""How large anything from outside may be before it is refused unread.

Every size is checked before memory of that size is asked for, so that neither a broken device nor
a decompression bomb can exhaust the reader.
"""

from __future__ import annotations

import msgspec

__all__ = ["DEFAULT_LIMITS", "Limits"]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The largest message a reader accepts.

    Parameters
    ----------
    json_bytes : int
        Plans, states and acknowledgements.
    message_bytes : int
        A batch or summary as it travels, compressed.
    raw_bytes : int
        What a batch or summary decompresses to.
    header_bytes : int
        The header inside a batch or summary.
    certificate_bytes : int
        The certificate in front of a sealed message; a fleet's own have about 600.
    revoked_bytes : int
        The list of revoked certificates, DER: 39 for each, so some 26,800.
    rows : int
        Rows in one batch.
    columns : int
        Columns in one batch.
    tensors : int
        Tensors in one summary.
    cells : int
        Cells of all tables of one summary together. Noisy counts compress to 2 to 4 bytes each,
        so this many fit into a message whatever the noise.
    """

    json_bytes: int = 1 << 20
    message_bytes: int = 4 << 20
    raw_bytes: int = 32 << 20
    header_bytes: int = 16 << 10
    certificate_bytes: int = 4 << 10
    revoked_bytes: int = 1 << 20
    rows: int = 1 << 16
    columns: int = 512
    tensors: int = 8192
    cells: int = 1 << 20


#: what the device and the aggregator use unless configured otherwise
DEFAULT_LIMITS = Limits()
