"""`edge-runtime import sdv` as a process, on files that stand-ins for SDV's classes wrote."""

from __future__ import annotations

import io
import json
import os
import pickle
import pty
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import Generator
from edge_runtime.errors import ModelImportError
from edge_runtime.generator import GraphBundle, load_bundle
from edge_runtime.importing.sdv import check_model, import_sdv, list_names, unpickle

STAND_IN = Path(__file__).parent / "stand_in"
VERB = "import sys; from edge_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
TIMEOUT_S = 120


def environment(**more: str) -> dict[str, str]:
    """This one's, with the stand-ins in front."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(STAND_IN), *filter(None, sys.path)]),
        **more,
    }


def run(
    *arguments: object, stdin: int = subprocess.DEVNULL, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", VERB, "import", "sdv", *map(str, arguments)],
        env=environment(**more),
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def answer(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the verb with a terminal to ask on, and answer."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{text}\n".encode())
        return run(*arguments, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def written(kind: str, *changes: str) -> Path:
        path = tmp_path / f"{kind}.pkl"
        subprocess.run(
            [sys.executable, STAND_IN / "make.py", kind, path, *changes],
            env=environment(),
            check=True,
            timeout=TIMEOUT_S,
        )
        return path

    return written


class Does:
    """Calls a function when it is unpickled."""

    def __init__(self, what: Callable[..., Any], *arguments: object) -> None:
        self.call = (what, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def hostile(path: Path, does: Does) -> Path:
    """A file that says that it is a CTGAN, and does something."""
    named = b"csdv.single_table.ctgan\nCTGANSynthesizer\n0"  # names the class, drops it
    body = pickle.dumps(does, protocol=0)
    path.write_bytes(named + body)
    return path


@pytest.mark.parametrize("kind", ["CTGAN", "TVAE"])
def test_a_model_becomes_a_bundle(kind: str, make: Make, tmp_path: Path) -> None:
    model, out = make(kind), tmp_path / "out.bundle"
    done = run(model, "--out", out, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    bundle = load_bundle(out)
    assert isinstance(bundle, GraphBundle)
    assert told["digest"] == bundle.digest
    assert told["import"]["model"] == kind
    assert told["import"].get("rows") == (321 if kind == "CTGAN" else None)
    assert told["import"]["file"] == model.name
    assert told["import"]["sha256"] in done.stderr  # the warning names the same file
    assert set(told["import"]["left_out"]) == {"visit", "empty"}
    columns = {column.name: column for column in bundle.schema.columns}
    assert list(columns) == ["ward", "age", "cost", "weight", "day", "grade", "size", "flag"]
    # an empty text is missing, as a category that is none
    assert columns["ward"].values == ("north", "south")
    nullable = {name for name, column in columns.items() if column.nullable}
    assert nullable == {"ward", "cost", "weight", "grade", "flag"}
    assert [columns[name].kind for name in ("age", "cost", "day", "flag")] == [
        "integer", "number", "timestamp", "boolean",
    ]  # fmt: skip
    assert (columns["cost"].decimals, columns["weight"].decimals) == (2, 1)
    rows = Generator(bundle).sample(4_000, seed=1)
    assert 0.15 < rows.missing["cost"].mean() < 0.25
    assert 0.05 < rows.missing["flag"].mean() < 0.15
    assert 0.02 < rows.missing["weight"].mean() < 0.98
    assert not (np.asarray(rows.columns["day"]) % 86_400_000_000).any()
    assert set(rows.columns["size"]) == {"S", "M", "L"}
    assert set(rows.columns["grade"]) == {"a", "b", None}


def test_it_warns_and_asks(make: Make, tmp_path: Path) -> None:
    model, out = make("TVAE"), tmp_path / "out.bundle"
    declined = answer("n", model, "--out", out)
    assert declined.returncode == 130
    assert "WARNING: reading a pickle runs code that its maker chose." in declined.stderr
    assert str(model) in declined.stderr
    assert "Read it? [y/N]" in declined.stderr
    assert not out.exists()
    accepted = answer("y", model, "--out", out)
    assert accepted.returncode == 0, accepted.stderr
    assert "TVAE of SDV 2.0.0" in accepted.stdout
    assert "not stated: SDV gives none" in accepted.stdout
    assert "note: column 'visit' is left out: id, made up by AnonymizedFaker" in accepted.stderr
    assert "ODD" not in declined.stderr
    assert isinstance(load_bundle(out), GraphBundle)


def test_without_a_terminal_it_refuses(make: Make, tmp_path: Path) -> None:
    done = run(make("TVAE"), "--out", tmp_path / "out.bundle")
    assert done.returncode == 2
    assert "WARNING" in done.stderr
    assert "no terminal to ask on; say --yes" in done.stderr


def test_nothing_runs_before_the_answer(tmp_path: Path) -> None:
    """And everything does after it: the warning means what it says."""
    planted = tmp_path / "planted"
    model = hostile(tmp_path / "model.pkl", Does(os.mkdir, str(planted)))
    out = tmp_path / "out.bundle"
    declined = answer("n", model, "--out", out)
    assert "ODD     no synthesizer needs posix.mkdir" in declined.stderr
    assert not planted.exists()
    done = run(model, "--out", out, "--yes")
    assert planted.exists()
    assert done.returncode == ModelImportError.exit_code
    assert "it becomes a builtins.NoneType" in done.stderr
    assert not out.exists()


def test_the_files_code_runs_elsewhere(tmp_path: Path) -> None:
    """Without this environment, and in a folder of its own."""
    seen = tmp_path / "seen"
    model = hostile(tmp_path / "model.pkl", Does(os.system, f"(env; pwd) > {seen}"))
    run(model, "--out", tmp_path / "out.bundle", "--yes", A_SECRET="hush")
    found = seen.read_text()
    assert "hush" not in found
    assert f"HOME={Path.home()}\n" not in found
    assert str(Path.cwd()) not in found.splitlines()


def test_a_file_that_stalls_or_ends_its_process() -> None:
    with pytest.raises(ModelImportError, match="was not read in 1 s"):
        unpickle(pickle.dumps(Does(time.sleep, 3600)), file="asleep.pkl", timeout_s=1)
    with pytest.raises(ModelImportError, match="the process ended with 3"):
        unpickle(pickle.dumps(Does(os._exit, 3)), file="ended.pkl")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("CopulaGAN", [], "a pickle of SDV's CopulaGANSynthesizer .*TVAESynthesizer of SDV 2 can"),
        ("TVAE", ["unfitted"], "saved before it was fitted"),
        ("CTGAN", ["constraint"], r"has constraints \(Residual\)"),
        ("TVAE", ["cost=LogScaler"], "column 'cost' goes through LogScaler, .*; supported are"),
    ],
)
def test_what_is_not_supported_is_named(
    kind: str, changes: list[str], message: str, make: Make, tmp_path: Path
) -> None:
    done = run(make(kind, *changes), "--out", tmp_path / "out.bundle", "--yes")
    assert done.returncode == ModelImportError.exit_code
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("data.pkl", b"")
    return made.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,b\n1,2\n", "model.pkl is no pickle and cannot be read"),
        (b"", "is no pickle and cannot be read"),
        (pickle.dumps([Path("x")] * 9)[:-5], "is no pickle and cannot be read"),
        (zipped(), "is a zip archive, as torch.save writes it, and cannot be read"),
        (pickle.dumps([1, "a"]), "is a pickle of plain values"),
        (pickle.dumps(np.arange(3)), r"is a pickle of _reconstruct \(numpy"),
    ],
)
def test_other_files_are_refused_unread(data: bytes, message: str) -> None:
    with pytest.raises(ModelImportError, match=message):
        check_model(data, file="model.pkl")


def test_a_file_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ModelImportError, match=r"none\.pkl cannot be read: No such file"):
        import_sdv(tmp_path / "none.pkl")


def test_a_file_that_is_no_pickle_is_one_line(tmp_path: Path) -> None:
    model = tmp_path / "rows.csv"
    model.write_text("a,b\n1,2\n", encoding="utf-8")
    done = run(model, "--out", tmp_path / "out.bundle", "--yes")
    assert done.returncode == ModelImportError.exit_code
    assert done.stderr.startswith(f"error: {model} is no pickle")
    assert "WARNING" not in done.stderr


@pytest.mark.skipif(find_spec("sdv") is not None, reason="SDV is installed here")
def test_a_missing_package_is_named(make: Make, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", VERB, "import", "sdv", make("TVAE"), "--out", tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 3
    assert "sdv is not installed; it comes with: pip install 'edge-runtime[sdv]'" in done.stderr


@pytest.mark.parametrize("protocol", range(6))
def test_names_are_listed_whatever_the_protocol(protocol: int) -> None:
    value = [Path, Does(os.system, "true"), Path, {"posix": "system"}]
    names = list_names(pickle.dumps(value, protocol=protocol), file="value.pkl")
    assert names.first == "pathlib.Path"
    assert names.different == 2
    assert names.unexpected == ("pathlib.Path", "posix.system")
