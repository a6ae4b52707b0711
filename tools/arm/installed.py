"""Enter unpacked packages into dpkg's database as installed; a hook of mmdebstrap.

`dpkg --install` of our packages then finds what they depend on.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main(root: Path) -> None:
    """Read the packages that apt has downloaded into the root, and note each."""
    database = root / "var/lib/dpkg"
    entries = []
    for archive in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        control = subprocess.run(
            ["dpkg-deb", "--field", archive], capture_output=True, text=True, check=True
        ).stdout.rstrip("\n")
        fields = dict(
            line.split(": ", 1)
            for line in control.splitlines()
            if not line.startswith(" ") and ": " in line
        )
        entries.append(f"{control}\nStatus: install ok installed\n")
        listed = subprocess.run(
            f"dpkg-deb --fsys-tarfile {archive} | tar -t", shell=True,
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        paths = [line.removeprefix(".").rstrip("/") or "/." for line in listed.splitlines()]
        name = fields["Package"]
        if fields.get("Multi-Arch") == "same":
            name += f":{fields['Architecture']}"
        (database / "info" / f"{name}.list").write_text("\n".join(paths) + "\n", encoding="utf-8")
    (database / "status").write_text("\n".join(entries), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
