"""`make image`: an SD card for Raspberry Pi 3, 4 and Zero 2 W, from Debian's packages and ours.

Debian is installed for real here, every package's own script run under emulation; that takes
minutes, and is done once (`base.py`). Raspberry Pi 5 needs a kernel that Debian 12 does not have:
install the .deb on Raspberry Pi OS there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tools/arm"), str(ROOT / "tools/deb")]

from base import make_base  # noqa: E402
from disk import STATE_DIRECTORIES, checksum, write_image  # noqa: E402
from emulate import prepare, run  # noqa: E402
from root import CACHE, RELEASE, unpack  # noqa: E402

SOURCES = """\
deb http://deb.debian.org/debian {release} main non-free-firmware
deb http://deb.debian.org/debian {release}-updates main non-free-firmware
deb http://security.debian.org/debian-security {release}-security main non-free-firmware
"""
# By the card's address, not the machine's identity: a read-only root has a new one at each boot.
_NETWORK = """\
[Match]
Name=en* eth* end* wlan* usb*
[Network]
DHCP=yes
[DHCPv4]
ClientIdentifier=mac
[DHCPv6]
DUIDType=link-layer
"""
# One that works is enough: a board on a cable has wireless as well, and nobody configured that.
_ONLINE = """\
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=60
"""
# No two cards share a host's keys: they are made at the first boot, before sshd looks for them.
_SSH = """\
[Service]
ExecStartPre=
ExecStartPre=/usr/bin/ssh-keygen -A
ExecStartPre=/usr/sbin/sshd -t
# an RSA key may take a slow board longer than the usual 90 s
TimeoutStartSec=600
"""
_FSTAB = """\
LABEL=root / ext4 {root} 0 1
LABEL=RASPIFIRM /boot/firmware vfat defaults,umask=0077 0 2
tmpfs /tmp tmpfs nosuid,nodev,mode=1777 0 0
"""
_READ_ONLY = """\
LABEL=state /state ext4 defaults,noatime 0 2
tmpfs /var/log tmpfs nosuid,nodev,mode=0755 0 0
tmpfs /var/tmp tmpfs nosuid,nodev,mode=1777 0 0
tmpfs /var/lib/systemd tmpfs nosuid,nodev,mode=0755 0 0
tmpfs /root tmpfs nosuid,nodev,mode=0700 0 0
"""


def main() -> int:
    """Build the image; print its path and size."""
    parser = argparse.ArgumentParser(prog="tools/image/build.py", description=__doc__)
    parser.add_argument("--read-only", action="store_true", help="root; state on a partition")
    parser.add_argument("--fresh", action="store_true", help="take Debian's latest updates")
    parser.add_argument("--root-mb", type=int, default=1792)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--work", type=Path, default=CACHE / "image")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("make image needs root: Debian's packages are installed in a chroot")
    prepare()
    found = sorted(options.out.glob("edge-runtime_*~deb12_arm64.deb"))
    if not found:
        sys.exit(f"{options.out} has no package for arm64: make deb")
    deb = found[-1]
    shutil.rmtree(options.work, ignore_errors=True)
    root = options.work / "root"
    options.work.mkdir(parents=True)
    unpack(make_base(fresh=options.fresh), root)
    install(root, deb)
    settle(root, read_only=options.read_only)
    name = deb.name.removesuffix("_arm64.deb").replace("edge-runtime_", "edge-runtime-")
    image = options.out / f"{name}-rpi-arm64{'-ro' if options.read_only else ''}.img"
    write_image(root, image, root_mb=options.root_mb, read_only=options.read_only)
    shutil.rmtree(options.work)
    subprocess.run(["xz", "-T2", "-2", "-f", str(image)], check=True)
    packed = image.with_name(f"{image.name}.xz")
    checksum(packed)
    print(f"{packed}  {packed.stat().st_size / 1e6:.0f} MB")
    return 0


def install(root: Path, deb: Path) -> None:
    """Install our package; its scripts run, emulated."""
    done = run(root, ["dpkg", "--install", f"/packages/{deb.name}"], board="pi3",
               binds={deb.parent: "/packages"}, timeout_s=3600)  # fmt: skip
    (root / "packages").rmdir()
    if done.returncode:
        sys.exit(f"{deb.name} was not installed:\n{done.stdout}")


def settle(root: Path, *, read_only: bool) -> None:
    """Make a general Debian the board that we want: network, first boot, file systems."""
    etc, units = root / "etc", root / "etc/systemd/system"
    # Of the making only: a board writes what it installs safely, and not from our mirror.
    (etc / "dpkg/dpkg.cfg.d/99mmdebstrap").unlink()
    (etc / "apt/sources.list").write_text(SOURCES.format(release=RELEASE), encoding="utf-8")
    (etc / "hostname").write_text("edge-runtime\n", encoding="utf-8")
    # empty: filled in at the first boot, so that no two cards share one
    (etc / "machine-id").write_text("", encoding="utf-8")
    for key in (etc / "ssh").glob("ssh_host_*"):
        key.unlink()
    # The time before the network has told it: at least that of this file.
    (root / "usr/lib/clock-epoch").touch()
    (etc / "systemd/network/20-dhcp.network").write_text(_NETWORK, encoding="utf-8")
    for unit in ("first-boot.service", "wifi.service"):
        shutil.copy(HERE / "files" / unit, units / unit)
    shutil.copy(HERE / "files/first-boot", root / "usr/lib/edge-runtime/first-boot")
    (root / "usr/lib/edge-runtime/first-boot").chmod(0o755)
    for unit, text in (("ssh", _SSH), ("systemd-networkd-wait-online", _ONLINE)):
        (units / f"{unit}.service.d").mkdir(exist_ok=True)
        (units / f"{unit}.service.d/image.conf").write_text(text, encoding="utf-8")
    enable = ["systemctl", f"--root={root}", "--quiet", "enable"]
    wanted = ["first-boot", "wifi", "systemd-networkd", "systemd-resolved", "systemd-timesyncd"]
    subprocess.run([*enable, *(f"{name}.service" for name in wanted)], check=True)
    fstab = _FSTAB.format(root="ro,noatime" if read_only else "defaults,noatime")
    if read_only:
        _make_read_only(root)
        fstab += _READ_ONLY + "".join(
            f"/state/{name} {place} none bind,x-systemd.requires-mounts-for=/state 0 0\n"
            for name, place in STATE_DIRECTORIES.items()
        )
    (etc / "fstab").write_text(fstab, encoding="utf-8")


def _make_read_only(root: Path) -> None:
    (root / "state").mkdir()
    # What systemd would make at the first boot.
    (root / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    # After the "rw" that raspi-firmware writes: not even the kernel is to write to the root. The
    # second file is for later kernels.
    cmdline = root / "boot/firmware/cmdline.txt"
    cmdline.write_text(cmdline.read_text(encoding="utf-8").strip() + " ro\n", encoding="utf-8")
    (root / "etc/default/raspi-extra-cmdline").write_text("ro\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
