from __future__ import annotations

import io
import warnings
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import BundleError
from edge_runtime.generator.archive import pack, unpack

MEMBERS = {"a.json": b"{}", "b.bin": bytes(range(256)), "empty": b""}
DATA = pack(MEMBERS)


def read(data: bytes) -> dict[str, bytes]:
    return unpack(data, names=MEMBERS, max_bytes=10_000)


@given(st.dictionaries(st.text("abcxyz./_", min_size=1, max_size=20), st.binary(max_size=300)))
def test_round_trip(members: dict[str, bytes]) -> None:
    assert unpack(pack(members), names=members, max_bytes=1 << 20) == members


def test_any_zip_tool_reads_it() -> None:
    with zipfile.ZipFile(io.BytesIO(DATA)) as archive:
        assert archive.testzip() is None
        assert {i.filename: archive.read(i) for i in archive.infolist()} == MEMBERS
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == 0o100644


def _zip(names: list[str], *, compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name in names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "Duplicate name", on purpose
                archive.writestr(zipfile.ZipInfo(name), MEMBERS.get(name, b"x"), compression)
        archive.comment = comment
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_zip(["../../etc/passwd", *MEMBERS]), "unexpected member '../../etc/passwd'"),
        (_zip(["/etc/passwd", *MEMBERS]), "unexpected member"),
        (_zip(["a.json", "b.bin", "empty", "a.json"]), "twice"),
        (_zip(["a.json", "b.bin"]), "empty missing"),
        (_zip([*MEMBERS]), "another zip tool"),
        (_zip([*MEMBERS], compression=zipfile.ZIP_DEFLATED), "another zip tool|unexpected|missing"),
        (_zip([*MEMBERS], comment=b"hidden"), "another zip tool"),
        (DATA + b"more", "another zip tool"),
        (b"prefix" + DATA, "missing"),
        (b"", "missing"),
        (b"PK\x03\x04", "ends inside"),
        (pack({"a.json\u007f": b""}), "unexpected"),
        (pack({"b.bin": b"", "a.json": b"", "empty": b"", "c" * 200: b""}), "unexpected"),
    ],
)
def test_other_forms_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        read(data)


def test_sizes_that_lie_are_refused() -> None:
    huge = bytearray(DATA)
    huge[18:22] = huge[22:26] = b"\xff\xff\xff\xff"
    with pytest.raises(BundleError, match="4294967295 bytes, more than"):
        read(bytes(huge))
    with pytest.raises(BundleError, match="at most 10 are accepted"):
        unpack(DATA, names=MEMBERS, max_bytes=10)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        read(data)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_every_changed_byte_is_noticed_or_changes_a_member(at: int, flip: int) -> None:
    changed = DATA[:at] + bytes([DATA[at] ^ flip]) + DATA[at + 1 :]
    # The checksum of each member stands twice, so even a content byte cannot change unnoticed.
    with pytest.raises(BundleError):
        read(changed)


@given(st.integers(0, len(DATA) - 1))
def test_every_truncation_is_noticed(length: int) -> None:
    with pytest.raises(BundleError):
        read(DATA[:length])
