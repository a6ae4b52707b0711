"""Bytes made to harm: refused by a typed error that names them, in bounded time and memory."""

from __future__ import annotations

import ast
import gzip
import importlib
import io
import json
import pkgutil
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

import tools.fuzz.targets
from edge_runtime.aggregator.config import load_config as load_aggregator
from edge_runtime.cli.console import facts, say, table
from edge_runtime.device.config import load_config as load_device
from edge_runtime.device.provisioning import load_provision
from edge_runtime.errors import (
    BundleError,
    CodecError,
    ConfigError,
    DataError,
    EdgeRuntimeError,
    MessageError,
    SchemaError,
    ShapeError,
)
from edge_runtime.generator import read_bundle
from edge_runtime.generator.archive import pack
from edge_runtime.messages import (
    Topics,
    check_id,
    decode_plan,
    decode_state,
    decode_summary,
    encode_header,
)
from edge_runtime.process import printable
from edge_runtime.schema import Codec, Schema, read_table
from tools.fuzz.contract import CORPUS, check, inputs_of
from tools.fuzz.samples import header, some_codec

ROOT = Path(__file__).parents[2]
TARGETS = [module.name for module in pkgutil.iter_modules(tools.fuzz.targets.__path__)]
DEEP = b"[" * 200_000


@contextmanager
def bounded(*, megabytes: int, seconds: float) -> Iterator[None]:
    """Hold what happens to memory that Python allocates, and to processor time."""
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
        used, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert used < seconds
    assert peak < megabytes << 20


@pytest.mark.parametrize("target", TARGETS)
def test_kept_inputs_keep_the_contract(target: str) -> None:
    """Valid ones, those that fuzzing found harmful, and those that reach far."""
    decoders = importlib.import_module(f"tools.fuzz.targets.{target}").DECODERS
    inputs = inputs_of(target, decoders)
    assert {number for number, _ in inputs} == set(range(len(decoders)))
    for number, path in inputs:
        raised = check(decoders[number], path.read_bytes())
        if "-valid" in path.name:
            # Some need keys that are not kept.
            keyless = ("reply", "pem", "graph", "envelope", "signed-valid1", "signed-valid2")
            assert raised == "" or path.name.startswith(keyless), path


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 500_000


# --- schemas and codecs -------------------------------------------------------------------------


def schema_file(columns: list[dict[str, Any]], **more: Any) -> bytes:
    document = {"format": "edge-runtime-schema", "version": 1, "name": "x", "columns": columns}
    return json.dumps(document | more).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (schema_file([{"name": f"c{i}", "kind": "boolean"} for i in range(50_000)]),
         "50000 columns"),
        (schema_file([{"name": f"c{i // 2}", "kind": "boolean"} for i in range(4000)]), "twice"),
        (schema_file([{"name": "a", "kind": "category",
                       "values": [f"v{i // 2}" for i in range(60_000)]}]), "listed twice"),
        (b" " * (5 << 20), "5242880 bytes"),
        (b'{"format":"edge-runtime-schema","version":1,"columns":[{"name":' + DEEP, "recursion"),
        (schema_file([{"name": "a\x00b", "kind": "boolean"}]), r"a\\x00b"),
        (schema_file([{"name": "a\u202eb", "kind": "boolean"}]), r"a\\u202eb"),
        (schema_file([{"name": "\u00e9", "kind": "boolean"},
                      {"name": "e\u0301", "kind": "boolean"}]), "twice"),
        (schema_file([{"name": "n" * 256, "kind": "boolean"}]), "256 characters"),
        (schema_file([{"name": "a", "kind": "integer", "low": 10**400, "high": 1}]), "range"),
        (schema_file([{"name": "a", "kind": "boolean"}], constraints=[{}] * 3), "constraint 1"),
        (b'{"name": "\\ud800"}', "not a schema"),
        (b'{"name": "\xc0\xaf"}', "not a schema"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_hostile_schemas(data: bytes, words: str) -> None:
    with bounded(megabytes=256, seconds=4.0), pytest.raises(SchemaError, match=words) as caught:
        Schema.from_json(data)
    assert len(str(caught.value)) <= 4100


def test_a_codec_of_a_kilobyte_cannot_ask_for_gigabytes() -> None:
    """Bins are run-length coded: 65,536 bins of 65,536 points each would be 34 GB."""
    document = json.loads(some_codec().to_json())
    name = next(n for n, own in document["bins"].items() if "points" in own)
    bins = 2000
    document["bins"][name] = {
        "cuts": [i / bins for i in range(1, bins)],
        "points": [[0.0, 65_536.0]] * bins,
    }
    with bounded(megabytes=64, seconds=4.0), pytest.raises(CodecError, match="points in all bins"):
        Codec.from_json(json.dumps(document))


# --- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[0, 2**63 - 1, 2**63 - 1], [1] * 65], ids=["huge", "deep"])
def test_shapes_that_no_array_has(shape: list[int]) -> None:
    """Found by fuzzing: a ValueError, which ended the aggregator's inbox."""
    body = bytes(8) if shape[0] else b""
    entry = {"dtype": "I64", "shape": shape, "data_offsets": [0, len(body)]}
    metadata = {"edge_runtime": encode_header(header("anchor")).decode()}
    head = json.dumps({"__metadata__": metadata, "table.0": entry}).encode()
    head += b" " * (-len(head) % 8)
    data = zstandard.compress(struct.pack("<Q", len(head)) + head + body)
    with pytest.raises(ShapeError, match=r"'table\.0' has an impossible shape"):
        decode_summary(data)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e999", "1" * 5000])
def test_numbers_that_are_none_in_plans_and_states(number: str) -> None:
    plan = f'{{"version": 1, "fleet": "f", "epsilon_after": {number}}}'
    with pytest.raises(MessageError):
        decode_plan(plan.encode())
    state = f'{{"version": 1, "device": "d", "status": "idle", "epsilon_spent": {number}}}'
    with pytest.raises(MessageError):
        decode_state(state.encode())


@pytest.mark.parametrize(
    "name",
    ["a\x00", "a\n", "a/b", "+", "#", "..", "a\u202eb", "\uff41", "e\u0301", "\u00e9", "A", "all"],
)
def test_ids_and_topics_are_plain_ascii(name: str) -> None:
    with pytest.raises(MessageError):
        check_id(name, what="device")
    with pytest.raises(MessageError):
        Topics("f").parse(f"er/v1/f/up/{name}/state")


# --- bundles ------------------------------------------------------------------------------------


def test_json_in_a_bundle_is_bounded_in_depth_and_size() -> None:
    deep = b'{"format": "edge-runtime-bundle", "version": 1, "layout": ' + DEEP
    with pytest.raises(BundleError):
        read_bundle(pack({"manifest.json": deep}))
    # Each {} takes 3 bytes here and 64 in memory.
    many = b"[" + b"{}," * (4 << 20) + b"{}]"
    with bounded(megabytes=96, seconds=4.0), pytest.raises(BundleError):
        read_bundle(pack({"manifest.json": many}))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\\..\\b", "manifest.json/", "x\x00"])
def test_members_cannot_leave_the_archive(name: str) -> None:
    """No member's name is ever a path: they are looked up in a fixed list, links included."""
    with pytest.raises(BundleError, match="unexpected member"):
        read_bundle(pack({name: b""}))


# --- configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_device, load_aggregator, load_provision])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 3000, "recursion"),
        ("a = " + "1" * 4090, "misspelt|missing|TOML"),
        ("a = " + "1" * 5000, "5004 characters"),
        ("a" + ".a" * 30_000 + " = 1", "60005 characters"),
        ("#" * 70_000, "more than 65536 bytes"),
        ('a = "x\\u0000y"', r"a is 'x\\x00y'"),
        ('"a\\u0000" = 1', "a key of the file"),
    ],
    ids=["nested", "digits", "more-digits", "dotted", "large", "nul", "nul-key"],
)
def test_hostile_configuration(
    load: Callable[[Path], object], text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    with bounded(megabytes=64, seconds=4.0), pytest.raises(ConfigError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_the_home_of_nobody_is_a_mistake_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text(
        '[device]\nid = "a"\nfleet = "f"\nstate_dir = "s"\n[privacy]\nepsilon = 1.0\n'
        '[source]\npath = "~nobody-of-this-name/x"\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"source\.path: there is no home"):
        load_device(path)


# --- tables -------------------------------------------------------------------------------------


def test_a_compressed_line_of_half_a_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(512):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 3 << 20
    with bounded(megabytes=400, seconds=20.0), pytest.raises(DataError, match="characters in"):
        read_table(path)


@pytest.mark.parametrize("cut", [-12, 15])
def test_damaged_compressed_files(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    data = bytearray(gzip.compress(b"a,b\n" + b"1,2\n" * 1000))
    data = data[:cut] if cut < 0 else data[:cut] + b"\xff" * 8 + data[cut + 8 :]
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged or incomplete \.gz"):
        read_table(path)


def test_a_header_of_many_columns_of_one_name() -> None:
    text = ",".join(f"c{i // 2}" for i in range(50_000)) + "\n"
    with bounded(megabytes=64, seconds=4.0), pytest.raises(DataError, match="one name") as caught:
        read_table(io.StringIO(text))
    assert len(str(caught.value)) <= 4100


# --- what is shown of it ------------------------------------------------------------------------


def test_errors_are_never_long() -> None:
    error = EdgeRuntimeError("begin" + "x" * 10**6 + "end")
    assert len(str(error)) < 4100
    assert str(error).startswith("begin")
    assert str(error).endswith("end")
    assert str(EdgeRuntimeError("short")) == "short"


def test_a_terminal_is_not_commanded(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2Jgone [/red] [bold] \u202eabc\x9b"
    assert printable(hostile) == r"\x1b[2Jgone [/red] [bold] \u202eabc\x9b"
    say(hostile)
    facts({"reason": hostile})
    table(("device", "reason"), [("d", hostile)], title="x")
    shown = capsys.readouterr().out
    assert shown.count(r"\x1b[2Jgone [/red] [bold] \u202eabc\x9b") == 3
    assert "\x1b" not in shown


# --- no code in data ----------------------------------------------------------------------------

_PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
#: the process of its own that `edge-runtime import sdv` starts, and says so
_ALLOWED = {"edge_runtime/importing/sdv/reading.py"}


def test_nothing_unpickles_or_evaluates_but_the_import_of_sdv() -> None:
    found = set()
    for path in sorted((ROOT / "edge_runtime").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & _PICKLES
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]} & _PICKLES
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in {"eval", "exec", "compile"} or called.endswith("read_pickle"):
                    names = {called}
                # numpy refuses pickles by default; nobody may ask for them
                names |= {k.arg for k in node.keywords if k.arg == "allow_pickle"}
            if names:
                found.add(str(path.relative_to(ROOT)))
    assert found == _ALLOWED
