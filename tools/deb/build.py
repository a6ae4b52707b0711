"""`make deb`: Debian packages for arm64 and amd64, built on either, without running target code.

Three packages share one virtual environment in /opt/edge-runtime, each with the wheels that those
before it do not bring: `edge-runtime` (a device; the kernel engine), `edge-runtime-onnx`
(onnxruntime for it) and `edge-runtime-aggregator`. Wheels are made for one version of Python, so
there is one build for each release of Debian.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from wheels import ROOT, TARGETS, Target, build_wheel, install_wheels, source_date_epoch

DEBIAN = Path(__file__).parent / "debian"
HOME = Path("opt/edge-runtime")
#: of programs that units call and people do not
HELPERS = Path("usr/lib/edge-runtime")
SCRIPTS = ("postinst", "prerm", "postrm")
#: Debian's release (Raspberry Pi OS uses the same numbers) and its name, by the Python it brings
PYTHONS = {"12": ("bookworm", "3.11"), "13": ("trixie", "3.13")}
#: parts of wheels that nothing here imports or reads; a third of numpy is tests
SUPERFLUOUS = (
    "bin", "share", "**/*.dist-info/direct_url.json", "**/.gitignore",
    # tests; whole directories only where none of the rest takes a helper from there
    "**/tests/test_*", "**/tests/data", "ibis/**/tests", "joblib/test", "onnx/backend/test",
    "pandas/tests", "pyarrow/tests", "sklearn/**/tests",
    # for compilers
    "**/*.a", "**/*.h", "**/*.hpp", "**/*.cc", "**/*.pyx", "**/*.pxd", "**/*.pxi", "pyarrow/src",
    # plots for browsers and notebooks
    "plotly/labextension", "plotly/package_data/*.js",
    # Arrow's servers and remote file systems, its own tests, and its libraries once more under
    # names for linkers
    "pyarrow/*flight*", "pyarrow/*s3*", "pyarrow/_azurefs.*", "pyarrow/_gcsfs.*",
    "pyarrow/_hdfs.*", "pyarrow/_pyarrow_cpp_tests.*", "pyarrow/libarrow*.so",
    "pyarrow/libarrow*.so.*.*.*",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Package:
    """One binary package.

    Parameters
    ----------
    name, summary, text : str
        As `apt show` prints them.
    requirements : tuple of str
        Wheels beside the project's base install; ``{wheel}`` is the project's own.
    depends : tuple of str
        Debian's packages, beside Python; ``{version}`` is this one's version.
    builds_on : tuple of str
        Our packages whose files this one does not repeat.
    units : tuple of str
        Units that are enabled, the service itself first; with it come a user and a state directory.
    config : str
        Its file in /etc/edge-runtime.
    """

    name: str
    summary: str
    text: str
    depends: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    builds_on: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    config: str = ""


_LIBRARIES = ("libc6 (>= 2.28)", "libgcc-s1", "libstdc++6")
PACKAGES = {
    package.name: package
    for package in (
        Package(
            name="edge-runtime",
            summary="private synthetic data from a fleet of small devices: the device",
            text="Every device learns a generator from rows that never leave it and publishes\n"
            "differentially private synthetic rows and update summaries over MQTT. This\n"
            "package brings the device's service, the command line, and the kernel engine.",
            depends=(*_LIBRARIES, "zlib1g", "systemd (>= 252)"),
            units=("edge-runtime-device.service", "edge-runtime-enrol.service"),
            config="device.toml",
        ),
        Package(
            name="edge-runtime-onnx",
            summary="private synthetic data from a fleet of small devices: onnxruntime",
            text="With onnxruntime a device trains up to twice as fast and can run generators\n"
            "that others packed as ONNX graphs. It takes more memory.",
            requirements=("onnxruntime",),
            depends=("edge-runtime (= {version})", *_LIBRARIES),
            builds_on=("edge-runtime",),
        ),
        Package(
            name="edge-runtime-aggregator",
            summary="private synthetic data from a fleet of small devices: the aggregator",
            text="Plans rounds, collects and judges what devices send, fuses it into one\n"
            "generator, and writes datasets with report and privacy statement.",
            requirements=("edge-runtime[aggregator] @ {wheel}",),
            depends=("edge-runtime-onnx (= {version})", *_LIBRARIES),
            builds_on=("edge-runtime", "edge-runtime-onnx"),
            units=("edge-runtime-aggregator.service",),
            config="aggregator.toml",
        ),
    )
}


def project_version() -> str:
    """Return the version in pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


class Build:
    """One processor, one release of Debian.

    Parameters
    ----------
    target : Target
    release : str
        A key of `PYTHONS`.
    revision : str
        Debian's part of the version.
    level : int
        Of compression, 1 to 9; 0 for none, which is quick to build and to unpack.
    work : Path
        For staged trees; emptied package by package.
    out : Path
        Where packages are put.
    """

    def __init__(
        self, *, target: Target, release: str, revision: str, level: int, work: Path, out: Path
    ) -> None:
        self._target = target
        self._codename, self._python = PYTHONS[release]
        self._version = f"{project_version()}-{revision}~deb{release}"
        self._level = level
        self._work = work
        self._out = out
        self._epoch = source_date_epoch()
        self._wheel = build_wheel(target, work / "wheel")
        self._sites: dict[str, Path] = {}

    def package(self, package: Package) -> Path:
        """Build one package; those that it builds on come first, or are only staged."""
        site = self._site(package)
        tree = self._work / package.name
        shutil.rmtree(tree, ignore_errors=True)
        inside = tree / HOME / "lib" / f"python{self._python}" / "site-packages"
        taken = [self._site(PACKAGES[name]) for name in package.builds_on]
        for file in sorted(site.rglob("*")):
            relative = file.relative_to(site)
            if file.is_dir() or any((other / relative).exists() for other in taken):
                continue
            (inside / relative).parent.mkdir(parents=True, exist_ok=True)
            os.link(file, inside / relative)
        if not package.builds_on:
            self._environment(tree)
        if package.units:
            self._service(tree, package)
        self._documentation(tree, package)
        self._control(tree, package)
        self._settle(tree)
        path = self._out / f"{package.name}_{self._version}_{self._target.debian}.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = ["-Zxz", f"-z{self._level}"] if self._level else ["-Znone"]
        command = ["dpkg-deb", "--root-owner-group", *packed, "--build", str(tree), str(path)]
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(self._epoch)}
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        return path

    def _site(self, package: Package) -> Path:
        """Return a site-packages with everything that the package needs, installed once."""
        if package.name not in self._sites:
            site = self._work / "site" / package.name
            shutil.rmtree(site, ignore_errors=True)
            # A name alone would be looked for in the package index.
            requirements = [
                text.format(wheel=self._wheel.resolve().as_uri()) for text in package.requirements
            ]
            install_wheels(self._target, self._python, requirements, site, self._wheel)
            for pattern in SUPERFLUOUS:
                for path in sorted(site.glob(pattern), reverse=True):  # the innermost first
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            for library in site.rglob("*.so"):
                self._strip(library)
            for record in site.glob("*.dist-info/RECORD"):
                _rewrite(record)
            self._sites[package.name] = site
        return self._sites[package.name]

    def _strip(self, library: Path) -> None:
        """Take debugging symbols away, which are 20 MB in zstandard's wheel alone.

        Libraries whose search path was edited after linking are left alone: stripping those is
        known to break them.
        """
        tool = f"{self._target.triplet}-"
        shown = subprocess.run(
            [f"{tool}readelf", "-d", library], capture_output=True, text=True, check=True
        ).stdout
        if "RUNPATH" not in shown and "RPATH" not in shown:
            subprocess.run([f"{tool}strip", "--strip-unneeded", library], check=True)

    def _environment(self, tree: Path) -> None:
        """Make the virtual environment around the site-packages, and the command."""
        home = tree / HOME
        (home / "bin").mkdir(parents=True)
        (home / "bin/python3").symlink_to(f"/usr/bin/python{self._python}")
        (home / "pyvenv.cfg").write_text(
            "home = /usr/bin\ninclude-system-site-packages = false\n", encoding="utf-8"
        )
        # Where the wheel has them: `fleet init` and the demo fill them in.
        shutil.copytree(ROOT / "broker_config", home / "share/edge-runtime/broker_config")
        _put(DEBIAN / "edge-runtime.sh", tree / "usr/bin/edge-runtime")
        manual = (DEBIAN / "edge-runtime.1").read_bytes()
        _put_compressed(manual, tree / "usr/share/man/man1/edge-runtime.1.gz")

    def _service(self, tree: Path, package: Package) -> None:
        """Put units, what they call, the user and the configuration in their places."""
        units = tree / "usr/lib/systemd/system"
        for unit in package.units:
            _put(DEBIAN / unit, units / unit)
        if not package.builds_on:
            _put(DEBIAN / "edge-runtime-clock.service", units / "edge-runtime-clock.service")
            for helper in ("apply-limits", "enrol"):
                _put(DEBIAN / helper, tree / HELPERS / helper)
        _put(DEBIAN / f"{package.name}.sysusers", tree / f"usr/lib/sysusers.d/{package.name}.conf")
        _put(DEBIAN / package.config, tree / "etc/edge-runtime" / package.config)

    def _documentation(self, tree: Path, package: Package) -> None:
        docs = tree / "usr/share/doc" / package.name
        _put(DEBIAN / "copyright", docs / "copyright")
        entry = (
            f"edge-runtime ({self._version}) {self._codename}; urgency=medium\n\n"
            "  * What changed is in changelog.gz.\n\n"
            f" -- {_maintainer()}  {formatdate(self._epoch)}\n"
        )
        _put_compressed(entry.encode(), docs / "changelog.Debian.gz")
        _put_compressed((ROOT / "CHANGELOG.md").read_bytes(), docs / "changelog.gz")
        if not package.builds_on:
            for page in ("board.md", "device.md", "fleet.md", "service.md"):
                _put_compressed((ROOT / "docs" / page).read_bytes(), docs / f"{page}.gz")
        overrides = DEBIAN / f"{package.name}.lintian-overrides"
        _put(overrides, tree / "usr/share/lintian/overrides" / package.name)

    def _control(self, tree: Path, package: Package) -> None:
        directory = tree / "DEBIAN"
        directory.mkdir()
        depends = [text.format(version=self._version) for text in package.depends]
        # Not links: what they point at is this machine's.
        files = [
            f for f in tree.rglob("*")
            if f.is_file() and not f.is_symlink() and directory not in f.parents
        ]  # fmt: skip
        text = package.text.replace("\n", "\n ")
        fields = {
            "Package": package.name,
            "Source": "edge-runtime",
            "Version": self._version,
            "Architecture": self._target.debian,
            "Maintainer": _maintainer(),
            "Installed-Size": str(sum(-(-file.stat().st_size // 1024) for file in files)),
            "Depends": ", ".join([f"python{self._python}", *depends]),
            "Section": "science",
            "Priority": "optional",
            "Description": f"{package.summary}\n {text}",
        }
        lines = "".join(f"{key}: {value}\n" for key, value in fields.items())
        (directory / "control").write_text(lines, encoding="utf-8")
        if package.config:
            (directory / "conffiles").write_text(
                f"/etc/edge-runtime/{package.config}\n", encoding="utf-8"
            )
        for script in SCRIPTS:
            text = _script(script, package)
            if text:
                (directory / script).write_text(text, encoding="utf-8")
        sums = subprocess.run(
            ["md5sum", *sorted(str(f.relative_to(tree)) for f in files)],
            cwd=tree, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        (directory / "md5sums").write_text(sums, encoding="utf-8")

    def _settle(self, tree: Path) -> None:
        """Give everything the modes of an installation and the time of the commit."""
        programs = {tree / "DEBIAN" / name for name in SCRIPTS}
        programs |= {*(tree / "usr/bin").glob("*"), *(tree / HELPERS).glob("*")}
        for path in [tree, *tree.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path in programs else 0o644)
            os.utime(path, (self._epoch, self._epoch), follow_symlinks=False)


def _script(name: str, package: Package) -> str:
    """Return a maintainer script; what concerns a service only for packages that have one."""
    text = (DEBIAN / name).read_text(encoding="utf-8")
    if not package.units:
        text = re.sub(r" *# begin unit\n.*?# end unit\n", "", text, flags=re.DOTALL)
        if text.strip() == "#!/bin/sh\nset -e":
            return ""
    text = re.sub(r" *# (begin|end) unit\n", "", text)
    words = {"PACKAGE": package.name, "UNITS": " ".join(package.units)}
    if package.units:
        words["UNIT"] = package.units[0]
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _maintainer() -> str:
    """Return who answers for the packages, by the variables of Debian's own tools."""
    name = os.environ.get("DEBFULLNAME", "The edge-runtime developers")
    return f"{name} <{os.environ.get('DEBEMAIL', 'edge-runtime@lists.example.org')}>"


def _rewrite(record: Path) -> None:
    """List the files that a distribution still has, without digests: libraries were stripped."""
    site = record.parents[1]
    with record.open(encoding="utf-8", newline="") as file:
        names = [row[0] for row in csv.reader(file)]
    with record.open("w", encoding="utf-8", newline="") as file:
        kept = ([name, "", ""] for name in names if (site / name).exists())
        csv.writer(file, lineterminator="\n").writerows(kept)


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _put_compressed(data: bytes, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(data, 9, mtime=0))


def main() -> int:
    """Build what is asked for; print the path and size of each package."""
    parser = argparse.ArgumentParser(prog="tools/deb/build.py", description=__doc__)
    parser.add_argument("--arch", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--release", default="12", choices=PYTHONS, help="of Debian")
    parser.add_argument("--revision", default="1", help="Debian's part of the version")
    parser.add_argument("--level", type=int, default=6, help="of compression; 0: none")
    parser.add_argument(
        "--packages", nargs="+", default=["edge-runtime", "edge-runtime-onnx"], choices=PACKAGES
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "deb")
    options = parser.parse_args()
    for arch in options.arch:
        build = Build(
            target=TARGETS[arch], release=options.release, revision=options.revision,
            level=options.level, out=options.out,
            work=options.work / f"{arch}-deb{options.release}",
        )  # fmt: skip
        for name in options.packages:
            path = build.package(PACKAGES[name])
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
