"""`make image`: an SD card for Raspberry Pi 3, 4 and Zero 2 W, from Debian's packages and ours.

Debian is installed for real here, every package's own script run under emulation, which takes
some minutes. Raspberry Pi 5 needs a kernel that Debian 12 does not have: install the .deb on
Raspberry Pi OS there.
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

from disk import STATE_DIRECTORIES, checksum, write_image  # noqa: E402
from emulate import prepare  # noqa: E402
from root import CACHE, RELEASE, sources  # noqa: E402

PACKAGES = (
    "systemd-sysv", "systemd-timesyncd", "systemd-resolved", "udev", "dbus", "kmod", "iproute2",
    "procps", "linux-image-arm64", "raspi-firmware", "firmware-brcm80211", "wireless-regdb",
    "wpasupplicant", "cloud-guest-utils", "fdisk", "e2fsprogs", "dosfstools", "openssh-server",
    "ca-certificates", "python3.11", "zlib1g", "libstdc++6",
)  # fmt: skip
_FIRMWARE = 'ROOTPART=LABEL=root\nCONSOLES="ttyS1,115200 tty0"\nKERNEL_ARCH=arm64\n'
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
    install(root, deb, options.work)
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


def install(root: Path, deb: Path, work: Path) -> None:
    """Install Debian and our package; every maintainer script runs, emulated."""
    listed = work / "sources.list"
    listed.write_text(sources("main", "non-free-firmware"), encoding="utf-8")
    command = [
        # What it mounts in the root is gone with it, however it ends: the root is removed later.
        "unshare", "--mount", "mmdebstrap", "--quiet", "--architectures=arm64", "--variant=minbase",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--include={','.join(PACKAGES)}",
        "--dpkgopt=force-unsafe-io", "--dpkgopt=force-confold", "--dpkgopt=force-confdef",
        # the boot partition's files are written by this package's own hook, as on a board
        f"--essential-hook=printf '{_FIRMWARE.encode('unicode_escape').decode()}'"
        ' > "$1/etc/default/raspi-firmware"; mkdir -p "$1/boot/firmware"',
        f'--customize-hook=cp {deb} "$1/tmp/edge-runtime.deb"',
        '--customize-hook=chroot "$1" dpkg --install /tmp/edge-runtime.deb',
        '--customize-hook=rm "$1/tmp/edge-runtime.deb"',
        RELEASE, str(root), str(listed),
    ]  # fmt: skip
    subprocess.run(command, check=True)


def settle(root: Path, *, read_only: bool) -> None:
    """Make a general Debian the board that we want: network, first boot, file systems."""
    etc, units = root / "etc", root / "etc/systemd/system"
    (etc / "hostname").write_text("edge-runtime\n", encoding="utf-8")
    # empty: filled in at the first boot, so that no two cards share one
    (etc / "machine-id").write_text("", encoding="utf-8")
    for key in (etc / "ssh").glob("ssh_host_*"):
        key.unlink()
    network = "[Match]\nName=en* eth* end* wlan*\n[Network]\nDHCP=yes\n"
    (etc / "systemd/network/20-dhcp.network").write_text(network, encoding="utf-8")
    for unit in ("first-boot.service", "wifi.service"):
        shutil.copy(HERE / "files" / unit, units / unit)
    shutil.copy(HERE / "files/first-boot", root / "usr/lib/edge-runtime/first-boot")
    (root / "usr/lib/edge-runtime/first-boot").chmod(0o755)
    # Host keys are made at the first boot; on a read-only root they would not be kept.
    keys = "[Service]\nExecStartPre=-/usr/bin/ssh-keygen -A\n"
    (units / "ssh.service.d").mkdir(exist_ok=True)
    (units / "ssh.service.d/keys.conf").write_text(keys, encoding="utf-8")
    enable = ["systemctl", f"--root={root}", "--quiet", "enable"]
    wanted = ["first-boot", "wifi", "systemd-networkd", "systemd-resolved", "systemd-timesyncd"]
    subprocess.run([*enable, *(f"{name}.service" for name in wanted)], check=True)
    fstab = _FSTAB.format(root="ro,noatime" if read_only else "defaults,noatime")
    if read_only:
        (root / "state").mkdir()
        fstab += _READ_ONLY + "".join(
            f"/state/{name} {place} none bind,x-systemd.requires-mounts-for=/state 0 0\n"
            for name, place in STATE_DIRECTORIES.items()
        )
    (etc / "fstab").write_text(fstab, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
