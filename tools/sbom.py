"""Write what an installation consists of: a CycloneDX 1.5 list of packages, and their licences.

    python tools/sbom.py --out build/sbom                         # base, each extra installed here
    python tools/sbom.py --out build/sbom --constraints pins.txt  # a file of NAME==VERSION lines
    python tools/sbom.py --out build/sbom --osv DIR               # and look the versions up

Everything is read from the metadata of the packages that are installed here; nothing is asked of
the network. `--osv` takes a directory of OSV records (JSON files, such as an unpacked PyPI export
of osv.dev) and fails when a version is in one; without it the tool says that nothing was checked.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

PROJECT = "edge-runtime"
NOT_KNOWN = "not known"


class Package(NamedTuple):
    """One package in one version."""

    name: str
    version: str
    licence: str
    #: an SPDX expression, as the package says itself
    spdx: bool
    needs: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its package URL, which also is its reference in the list."""
        return f"pkg:pypi/{self.name}@{self.version}"


def installed(extra: str = "") -> list[Package]:
    """Return this project and all it needs, with an extra or without.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        When one of them is not installed here; its argument names it.
    """
    found: dict[str, Package] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(PROJECT, extra), (PROJECT, "")]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        distribution = importlib.metadata.distribution(name)
        needs = list(_needed(distribution, wanted))
        before = found[name].needs if name in found else ()
        direct = {*before, *(canonicalize_name(need.name) for need in needs)} - {name}
        found[name] = _package(distribution)._replace(needs=tuple(sorted(direct)))
        for need in needs:
            target = canonicalize_name(need.name)
            waiting += [(target, ""), *((target, own) for own in need.extras)]
    return sorted(found.values())


def _needed(distribution: importlib.metadata.Distribution, extra: str) -> Iterator[Requirement]:
    for text in distribution.requires or ():
        need = Requirement(text)
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            yield need


def pinned(lines: Iterable[str]) -> list[Package]:
    """Return the packages of NAME==VERSION lines; licences of those that are installed here."""
    found = []
    for line in lines:
        text = line.partition("#")[0].strip()
        if not text:
            continue
        need = Requirement(text)
        (pin,) = need.specifier
        if pin.operator != "==":
            raise SystemExit(f"{text}: not a pinned version; write NAME==VERSION")
        name = canonicalize_name(need.name)
        try:
            known = _package(importlib.metadata.distribution(name))
        except importlib.metadata.PackageNotFoundError:
            known = Package(name, pin.version, NOT_KNOWN, False, ())
        if known.version != pin.version:
            licence = f"{known.licence} (as of {known.version})"
            known = known._replace(version=pin.version, licence=licence, spdx=False)
        found.append(known)
    return sorted(found)


def _package(distribution: importlib.metadata.Distribution) -> Package:
    licence, spdx = _licence(distribution.metadata)
    name = canonicalize_name(distribution.metadata["Name"])
    return Package(name, distribution.version, licence, spdx, ())


def _licence(metadata: Any) -> tuple[str, bool]:
    """Return what a package says its licence is, and whether in SPDX's words."""
    if metadata["License-Expression"]:
        return str(metadata["License-Expression"]), True
    classified = [
        text.rpartition(" :: ")[2]
        for text in metadata.get_all("Classifier") or ()
        if text.startswith("License :: ") and text != "License :: OSI Approved"
    ]
    if classified:
        return "; ".join(sorted(classified)), False
    # Some put the whole text there.
    lines = [line.strip() for line in (metadata["License"] or "").splitlines() if line.strip()]
    return (lines[0][:100] if lines else NOT_KNOWN), False


def cyclonedx(packages: list[Package]) -> dict[str, Any]:
    """Return the list in the form of CycloneDX 1.5, the same for the same packages.

    Reference: https://cyclonedx.org/docs/1.5/json
    """
    components = [
        {
            "type": "library",
            "bom-ref": package.purl,
            "name": package.name,
            "version": package.version,
            "purl": package.purl,
            "licenses": [
                {"expression": package.licence}
                if package.spdx
                else {"license": {"name": package.licence}}
            ],
        }
        for package in packages
    ]
    purls = {package.name: package.purl for package in packages}
    text = json.dumps(components, sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": PROJECT}},
        "components": components,
        "dependencies": [
            {"ref": p.purl, "dependsOn": [purls[need] for need in p.needs if need in purls]}
            for p in packages
        ],
    }


def vulnerable(packages: list[Package], records: Iterable[dict[str, Any]]) -> list[str]:
    """Return one line for each package whose version an OSV record names.

    Reference: https://ossf.github.io/osv-schema/
    """
    known = {package.name: package for package in packages}
    lines = []
    for record in records:
        if record.get("withdrawn"):
            continue
        for affected in record.get("affected", ()):
            named = affected.get("package", {})
            package = known.get(canonicalize_name(named.get("name", "")))
            if package is None or named.get("ecosystem") != "PyPI":
                continue
            if _affects(affected, package.version):
                lines.append(f"{package.name} {package.version}: {record['id']}")
    return sorted(set(lines))


def _affects(affected: dict[str, Any], version: str) -> bool:
    if version in affected.get("versions", ()):
        return True
    ranges = [r for r in affected.get("ranges", ()) if r.get("type") == "ECOSYSTEM"]
    return any(_within(found.get("events", ()), Version(version)) for found in ranges)


def _within(events: Iterable[dict[str, str]], version: Version) -> bool:
    """Go through a range's events in the order of their versions, as OSV's evaluation does."""
    inside = False
    for kind, at in sorted(((k, v) for e in events for k, v in e.items()), key=_place):
        if kind == "introduced" and (at == "0" or version >= Version(at)):
            inside = True
        elif (kind == "fixed" and version >= Version(at)) or (
            kind == "last_affected" and version > Version(at)
        ):
            inside = False
    return inside


def _place(event: tuple[str, str]) -> Version:
    try:
        return Version(event[1])
    except InvalidVersion as error:
        raise SystemExit(f"an OSV record has a version that is none: {error}") from error


def read_records(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the OSV records below a directory."""
    paths = sorted(directory.rglob("*.json"))
    if not paths:
        raise SystemExit(f"{directory} holds no OSV records (*.json): nothing was checked")
    for path in paths:
        yield json.loads(path.read_text(encoding="utf-8"))


def extras() -> list[str]:
    """Return the extras whose packages are all installed here, the base first."""
    names = importlib.metadata.metadata(PROJECT).get_all("Provides-Extra") or ()
    complete = [""]
    for name in sorted(names):
        try:
            installed(name)
        except importlib.metadata.PackageNotFoundError as error:
            print(f"{name}: left out, {error.name} is not installed here")
            continue
        complete.append(name)
    return complete


def write(out: Path, name: str, packages: list[Package]) -> None:
    """Write both lists."""
    (out / f"{name}.cdx.json").write_text(json.dumps(cyclonedx(packages), indent=1) + "\n")
    with (out / f"{name}-licences.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("package", "version", "licence"))
        table.writerows((p.name, p.version, p.licence) for p in packages)


def main(arguments: list[str] | None = None) -> int:
    """Write the lists; return 1 when a version is known to be vulnerable."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of the lists")
    parser.add_argument("--constraints", type=Path, help="a file of NAME==VERSION lines")
    parser.add_argument("--osv", type=Path, help="directory of OSV records")
    options = parser.parse_args(arguments)
    if options.constraints is not None:
        lists = {options.constraints.stem: pinned(options.constraints.read_text().splitlines())}
    else:
        lists = {extra or "base": installed(extra) for extra in extras()}
    options.out.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    records = [] if options.osv is None else list(read_records(options.osv))
    for name, packages in lists.items():
        write(options.out, name, packages)
        unknown = [p.name for p in packages if p.licence == NOT_KNOWN]
        print(f"{name}: {len(packages)} packages" + (f"; no licence known of: {', '.join(unknown)}"
              if unknown else ""))  # fmt: skip
        found += vulnerable(packages, records)
    if options.osv is None:
        print("vulnerabilities: NOT CHECKED, as no --osv DIR was given")
        return 0
    for line in sorted(set(found)):
        print(f"VULNERABLE {line}")
    print(f"vulnerabilities: {len(set(found))} found in {len(records)} records")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
