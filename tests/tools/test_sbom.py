"""The list of packages: its form, what is in it, and what an OSV record says of a version."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tools.sbom import installed, main, vulnerable

DEEP = {
    "id": "OSV-1",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "Some.Package"},
            "ranges": [
                {
                    "type": "ECOSYSTEM",
                    "events": [
                        {"introduced": "1.2"}, {"fixed": "1.10"},
                        {"introduced": "2.0"}, {"last_affected": "2.3"},
                    ],
                }
            ],
            "versions": ["0.9"],
        }
    ],
}  # fmt: skip


def write_pins(path: Path, *lines: str) -> Path:
    path.write_text("# exact versions\n" + "\n".join(lines) + "\n")
    return path


def test_the_lists_of_what_is_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 0
    assert "NOT CHECKED" in capsys.readouterr().out
    base = json.loads((tmp_path / "base.cdx.json").read_bytes())
    check_form(base)
    versions = {part["name"]: part["version"] for part in base["components"]}
    assert versions["msgspec"] == importlib.metadata.version("msgspec")
    assert {"edge-runtime", "numpy", "paho-mqtt", "pycparser"} <= versions.keys()  # and indirect
    assert "sqlalchemy" not in versions
    more = json.loads((tmp_path / "aggregator.cdx.json").read_bytes())
    check_form(more)
    names = {part["name"] for part in more["components"]}
    # An extra of a package that an extra of ours asks for.
    assert versions.keys() | {"sqlalchemy", "duckdb"} <= names
    licences = (tmp_path / "base-licences.csv").read_text()
    assert "msgspec," in licences
    assert "Apache-2.0" in licences
    assert main(["--out", str(tmp_path / "again")]) == 0
    for name in ("base.cdx.json", "base-licences.csv"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def check_form(document: dict[str, Any]) -> None:
    """Check what the schema of CycloneDX 1.5 requires of the parts that are used."""
    assert document["bomFormat"] == "CycloneDX"
    assert document["specVersion"] == "1.5"
    uuid = r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    assert re.fullmatch(uuid, document["serialNumber"])
    assert document["version"] >= 1
    kinds = {"application", "library"}
    assert document["metadata"]["component"]["type"] in kinds
    references = [part["bom-ref"] for part in document["components"]]
    assert len(references) == len(set(references)) > 0
    for part in document["components"]:
        assert part["type"] in kinds
        assert part["name"]
        assert part["version"]
        assert re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[^@]+", part["purl"])
        (licence,) = part["licenses"]
        assert licence.keys() in ({"expression"}, {"license"})
        assert licence.get("expression") or licence["license"]["name"]
    for edge in document["dependencies"]:
        assert {edge["ref"], *edge["dependsOn"]} <= set(references)
        assert len(edge["dependsOn"]) == len(set(edge["dependsOn"]))


def test_a_file_of_pinned_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numpy = importlib.metadata.version("numpy")
    pins = write_pins(tmp_path / "pins.txt", f"NumPy=={numpy}", "click==0.1", "no.such_one==3")
    assert main(["--out", str(tmp_path), "--constraints", str(pins)]) == 0
    assert "no licence known of: no-such-one" in capsys.readouterr().out
    document = json.loads((tmp_path / "pins.cdx.json").read_bytes())
    check_form(document)
    assert [(part["name"], part["version"]) for part in document["components"]] == [
        ("click", "0.1"), ("no-such-one", "3"), ("numpy", numpy)
    ]  # fmt: skip
    # Of another version than the one that is asked about.
    assert "(as of" in document["components"][0]["licenses"][0]["license"]["name"]
    with pytest.raises(SystemExit, match="not a pinned version"):
        main(["--out", str(tmp_path), "--constraints", str(write_pins(pins, "numpy>=2"))])


@pytest.mark.parametrize(
    ("version", "found"),
    [("1.1", 0), ("1.2", 1), ("1.9", 1), ("1.10", 0), ("2.3", 1), ("2.4", 0), ("0.9", 1)],
)
def test_which_versions_a_record_names(version: str, found: int) -> None:
    package = installed()[0]._replace(name="some-package", version=version)
    assert len(vulnerable([package], [DEEP])) == found
    assert not vulnerable([package._replace(name="other")], [DEEP])
    assert not vulnerable([package], [{**DEEP, "withdrawn": "2026-01-01T00:00:00Z"}])


def test_a_vulnerable_version_fails_the_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "osv").mkdir()
    pins = write_pins(tmp_path / "pins.txt", "some_package==1.9")
    call = ["--out", str(tmp_path), "--constraints", str(pins), "--osv", str(tmp_path / "osv")]
    with pytest.raises(SystemExit, match="nothing was checked"):
        main(call)
    (tmp_path / "osv" / "OSV-1.json").write_text(json.dumps(DEEP))
    assert main(call) == 1
    assert "VULNERABLE some-package 1.9: OSV-1" in capsys.readouterr().out
    write_pins(pins, "some_package==1.10")
    assert main(call) == 0
    assert "0 found in 1 records" in capsys.readouterr().out
