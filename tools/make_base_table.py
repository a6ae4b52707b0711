"""Write native/src/base_table.inc, the cumulative table of the kernel's wide Gaussian sampler.

    python tools/make_base_table.py [output]

The distribution is the discrete Gaussian over the integers with
sigma0^2 = ER_SIGMA_INT^2 / ((1 + 32^2) (1 + 1024^2)), cut where a single probability falls below
2^-128. Entry i is floor(2^256 P(X <= i - REACH)). docs/kernel-noise.md gives the reason for every
number. Only the standard library's decimal arithmetic is used, 120 digits wide, so the file comes
out the same everywhere; a test writes it again and compares.
"""

from __future__ import annotations

import sys
from decimal import Decimal, getcontext
from pathlib import Path

SIGMA_INT = 2**21
FIRST, SECOND = 32, 1024  # the two multipliers of the convolution
BITS = 256
SMALLEST = Decimal(2) ** -128
GUIDE_BITS = 10
DIGITS = 120  # 2^-256 has 78 digits; the rest is room for the sums

OUTPUT = Path(__file__).parents[1] / "native" / "src" / "base_table.inc"


def cumulative() -> tuple[int, list[int]]:
    """Return the reach of the table and its entries of `BITS` bits."""
    getcontext().prec = DIGITS
    variance = Decimal(SIGMA_INT**2) / ((1 + FIRST**2) * (1 + SECOND**2))
    # Far beyond the reach, so that the normalising sum is exact to DIGITS.
    weights = [(-Decimal(x * x) / (2 * variance)).exp() for x in range(2000)]
    total = weights[0] + 2 * sum(weights[1:])
    reach = max(x for x, weight in enumerate(weights) if weight / total >= SMALLEST)
    kept = weights[0] + 2 * sum(weights[1 : reach + 1])
    running, entries = Decimal(0), []
    for x in range(-reach, reach + 1):
        running += weights[abs(x)]
        entries.append(int(running / kept * 2**BITS))
    entries[-1] = 2**BITS - 1  # stands for 2^256, which does not fit
    return reach, entries


def render(reach: int, entries: list[int]) -> str:
    """Return the C text of the tables."""
    upper = [entry >> (BITS - 32) for entry in entries]
    words = BITS // 32 - 1
    guide, index = [], 0
    for slot in range(1 << GUIDE_BITS):
        while upper[index] < slot << (32 - GUIDE_BITS):
            index += 1
        guide.append(index)
    lines = [
        "/* Written by tools/make_base_table.py; do not edit. */",
        f"const uint32_t er_base_upper[{2 * reach + 1}] = {{",
        *_rows([f"0x{value:08x}u" for value in upper], 8),
        "};",
        f"const uint32_t er_base_lower[{2 * reach + 1}][{words}] = {{",
    ]
    for entry in entries:
        low = [f"0x{entry >> 32 * w & 0xFFFFFFFF:08x}u" for w in reversed(range(words))]
        lines.append("    {" + ", ".join(low) + "},")
    lines += [
        "};",
        f"const uint16_t er_base_guide[{1 << GUIDE_BITS}] = {{",
        *_rows([str(value) for value in guide], 16),
        "};",
    ]
    return "\n".join(lines) + "\n"


def _rows(values: list[str], per_row: int) -> list[str]:
    return [
        "    " + ", ".join(values[i : i + per_row]) + "," for i in range(0, len(values), per_row)
    ]


def main(arguments: list[str]) -> None:
    """Write the table to the path given, or to its place in the source tree."""
    output = Path(arguments[0]) if arguments else OUTPUT
    reach, entries = cumulative()
    output.write_text(render(reach, entries), encoding="utf-8")
    print(f"{output}: values -{reach}..{reach}, {len(entries)} entries of {BITS} bits")


if __name__ == "__main__":
    main(sys.argv[1:])
