"""Changes that keep the form of an input, so that they reach what lies behind the parser.

Bytes alone rarely turn one valid JSON document into another one; these do. Both engines use them,
beside changes of single bytes.
"""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

__all__ = ["mutate_bytes", "mutate_json", "mutate_json_head", "mutate_toml"]

_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 255, 256, 65_535, 65_536, 2**31, 2**53 + 1, 2**63 - 1, 2**63,
    -(2**63) - 1, 10**40, 0.5, -0.0, 1e-320, 1e308, -1e308, "", "all", "none", "auto", "a\x00b",
    "\u202eabc", "\ufeff", "e\u0301", "\u00e9", "../../x", "~nobody/x", "a/b", "+", "#", "x" * 300,
    [], {}, [[]], [0], [None], {"": None}, "0" * 32, "0" * 64, "2020-01-01T00:00:00Z",
    "9999-12-31T23:59:59-23:59", "NaN",
)  # fmt: skip
#: as text, since no JSON library writes them
_ODD_TEXT = (b"1e999", b"-1e999", b"NaN", b"Infinity", b"1" * 400, b"1" * 5000, b'"\\ud800"',
             b'"\\udc00\\ud800"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b"[" * 3000,
             b'{"a":' * 3000)  # fmt: skip
_MARK = "\ue000mark\ue000"
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5B, 0x7B, 0x2C, 0x0A)
_TOML_ODD = (
    '""', "0", "-1", "1e999", "nan", "inf", "-inf", "true", "[]", "{}", "1" * 300, "1" * 5000,
    '"none"', '"auto"', '"~nobody/x"', '"a\\u0000b"', '"\\u202e"', '"../../x"', "1979-05-27",
    "07:32:00", "{a={a={a=1}}}", "[[[[1]]]]", "'''\n\n'''", "9223372036854775808", "0.0", "1.5",
    "65536", '"' + "x" * 300 + '"', "[" * 2000, "{a=" * 2000, "1" + ".a" * 500,
)  # fmt: skip


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Change some bytes, anywhere."""
    made = bytearray(data)
    for _ in range(1 << random.randrange(4)):
        at = random.randrange(len(made) + 1)
        kind = random.randrange(6)
        length = 1 << random.randrange(8)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(made):
            made[at] = random.choice(_INTERESTING)
        elif kind == 2:
            del made[at : at + length]
        elif kind == 3:
            start = random.randrange(len(made) + 1)
            made[at:at] = made[start : start + length]
        elif kind == 4:
            made[at:at] = random.randbytes(length % 9)
        else:
            width = random.choice((1, 2, 4, 8))
            value = random.choice((0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, len(made)))
            made[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(made)


def mutate_json(data: bytes, random: Random) -> bytes:
    """Change a part of a JSON document; bytes where it is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, random)
    holder = [document]
    for _ in range(1 << random.randrange(3)):
        _change(holder, random)
    try:
        made = json.dumps(holder[0], ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return mutate_bytes(data, random)
    return made.replace(json.dumps(_MARK, ensure_ascii=False).encode(), random.choice(_ODD_TEXT))


def mutate_json_head(data: bytes, random: Random) -> bytes:
    """Change an input that is JSON, a zero byte, and more: either half."""
    head, zero, body = data.partition(b"\0")
    if random.random() < 0.7:
        return mutate_json(head, random).replace(b"\0", b"") + zero + body
    return head + zero + mutate_bytes(body, random)


def mutate_toml(data: bytes, random: Random) -> bytes:
    """Give some keys other values, or lines another order; bytes now and then."""
    lines = data.decode("utf-8", "replace").split("\n")
    for _ in range(1 << random.randrange(3)):
        at = random.randrange(len(lines))
        kind = random.randrange(8)
        if kind < 4 and "=" in lines[at]:
            lines[at] = lines[at].partition("=")[0] + "= " + random.choice(_TOML_ODD)
        elif kind == 4:
            lines.insert(at, random.choice(lines))
        elif kind == 5:
            del lines[at]
            lines = lines or [""]
        elif kind == 6:
            lines[at] = re.sub(r"[\w.]+", lambda found: found[0][::-1], lines[at], count=1)
        else:
            return mutate_bytes("\n".join(lines).encode(), random)
    return "\n".join(lines).encode()


def _change(holder: Any, random: Random) -> None:
    """Change one place below `holder`, a list or an object."""
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    if not keys:
        return
    key = random.choice(keys)
    value = holder[key]
    if isinstance(value, dict | list) and value and random.random() < 0.8:
        _change(value, random)
        return
    kind = random.randrange(10)
    if kind < 4:
        holder[key] = random.choice(_ODD)
    elif kind == 4:
        holder[key] = _MARK
    elif kind == 5:
        holder[key] = random.choice([holder[other] for other in keys])
    elif kind == 6 and isinstance(holder, dict):
        holder[random.choice(("", "version", str(random.choice(_ODD))[:80]))] = holder.pop(key)
    elif kind == 7 and isinstance(holder, list):
        holder[key:key] = [value] * random.choice((1, 2, 100))
    elif kind == 8 and len(keys) > 1:
        del holder[key]
    elif isinstance(value, bool | str) or value is None:
        holder[key] = f"{value}{random.choice(('x', '0', chr(0), chr(0x202E)))}"
    elif isinstance(value, int):
        holder[key] = random.choice((-value, value // 2, value * 10**6)) + random.choice((-1, 0, 1))
    elif isinstance(value, float):
        holder[key] = value * random.choice((-1.0, 0.5, 2.0, 1e6)) + random.choice((-1.0, 0.0, 1.0))
