"""An arm64 Debian root for tests, made on x86 without running a single program of it.

Packages are unpacked and not configured; the few things that their scripts would have done, and
that a boot or `dpkg --install` needs, are done from here. That takes half a minute instead of
several under emulation. Enough for tests, and never to be shipped: `tools/image` makes the image.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["CACHE", "RELEASE", "make_root", "precompile", "sources", "unpack"]

REPOSITORY = Path(__file__).parents[2]
#: everything that is downloaded or made from it; safe to delete
CACHE = Path(os.environ.get("EDGE_RUNTIME_ARM_CACHE", REPOSITORY / ".cache" / "arm"))
RELEASE, PYTHON = "bookworm", "python3.11"
PACKAGES = (
    # Debian's essential set, which "extract" does not bring by itself
    "base-files", "base-passwd", "bash", "bsdutils", "coreutils", "dash", "debianutils",
    "diffutils", "dpkg", "findutils", "grep", "gzip", "hostname", "init-system-helpers",
    "libc-bin", "login", "mawk", "mount", "ncurses-base", "perl-base", "sed", "tar", "util-linux",
    "systemd", "systemd-sysv", "udev", "dbus", "kmod", "iproute2", "procps", "passwd",
    "libnss-myhostname", "python3", "libstdc++6", "busybox-static", "linux-image-cloud-arm64",
)  # fmt: skip
#: what the virtual machine needs of the kernel's modules, before and after the disk is there
DISK_MODULES = ("virtio_pci", "virtio_blk")
MODULES = ("virtio_net", "virtio-rng")


def sources(*components: str) -> str:
    """Return lines for sources.list: the Debian mirror that this machine's apt uses.

    Parameters
    ----------
    components : str
        `main` by default, whatever of it this machine itself uses.

    Raises
    ------
    SystemExit
        When apt knows no mirror of the release, or has not been updated.
    """
    shown = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)",
         "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    lines = []
    for line in sorted(set(shown.splitlines())):
        if line.startswith(f"Debian {RELEASE}"):
            _, name, uri = line.split(" ")
            lines.append(f"deb [signed-by={key}] {uri} {name} {' '.join(components or ('main',))}")
    if not lines:
        sys.exit(
            f"apt on this machine knows no mirror of Debian {RELEASE}: add one to "
            "/etc/apt/sources.list.d, then: apt-get update"
        )
    return "\n".join(lines) + "\n"


def make_root() -> Path:
    """Return a directory with `root.tar`, `vmlinuz` and `initrd.gz`, made when it is not cached."""
    made_from = Path(__file__).read_bytes() + (Path(__file__).parent / "installed.py").read_bytes()
    directory = CACHE / f"root-{hashlib.sha256(made_from).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    # One process makes it; the others wait.
    with (CACHE / "root.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "initrd.gz").exists():
            shutil.rmtree(directory, ignore_errors=True)
            _make(directory)
    return directory


def _make(directory: Path) -> None:
    root = directory / "root"
    root.mkdir(parents=True)
    (directory / "sources.list").write_text(sources(), encoding="utf-8")
    command = [
        "mmdebstrap", "--quiet", "--architectures=arm64", "--variant=extract",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--include={','.join(PACKAGES)}",
        f'--extract-hook={sys.executable} {Path(__file__).parent / "installed.py"} "$1"',
        RELEASE, str(root), str(directory / "sources.list"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the arm64 root was not made:\n{done.stdout}{done.stderr}")
    _configure(root)
    # As the scripts of Debian's python3 would have done.
    precompile(root / "usr/lib" / PYTHON, root)
    _kernel(root, directory)
    subprocess.run(["tar", "-C", str(root), "-cf", str(directory / "root.tar"), "."], check=True)
    _initrd(root, directory)
    shutil.rmtree(root)


def unpack(archive: Path, root: Path) -> None:
    """Lay a fresh root from the archive."""
    root.mkdir(parents=True)
    subprocess.run(["tar", "-C", str(root), "--exclude=./dev/*", "-xf", str(archive)], check=True)


def precompile(directory: Path, root: Path) -> None:
    """Compile Python's sources on this machine: its bytecode is the same on every processor.

    Without it every program compiles what it imports, under emulation. Does nothing where this
    machine has no Python of the root's version.

    Parameters
    ----------
    directory : Path
        With `.py` files.
    root : Path
        What tracebacks do not show of their paths.
    """
    here = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    python = sys.executable if here == PYTHON else shutil.which(PYTHON)
    if python is not None:
        # Not the tests of libraries. Some bring files that are not Python: those stay as they are.
        subprocess.run(
            [python, "-I", "-m", "compileall", "-q", "-x", "/tests/", "-s", root, directory],
            stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip


def _configure(root: Path) -> None:
    """Do what the packages' own scripts would have done, as far as a boot needs it."""
    etc = root / "etc"
    for name in ("boot", "dev", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys"):
        (root / name).mkdir(exist_ok=True)
    for name in ("passwd", "group"):
        text = (root / f"usr/share/base-passwd/{name}.master").read_text(encoding="utf-8")
        (etc / name).write_text(text.replace(":*:", ":x:"), encoding="utf-8")
    users = [line.split(":")[0] for line in (etc / "passwd").read_text().splitlines()]
    # root comes in without a password: only over the serial console of a test.
    shadow = "".join(
        f"{user}:{'' if user == 'root' else '*'}:19000:0:99999:7:::\n" for user in users
    )
    (etc / "shadow").write_text(shadow, encoding="utf-8")
    (etc / "shadow").chmod(0o640)
    shutil.copytree(root / "usr/share/base-files", etc / "base-files", dirs_exist_ok=True)
    shutil.copy(root / "usr/share/base-files/profile", etc / "profile")
    shutil.rmtree(etc / "base-files")
    subprocess.run(["systemd-sysusers", f"--root={root}"], check=True, capture_output=True)
    with (etc / "passwd").open("a") as file:
        file.write("messagebus:x:190:190::/nonexistent:/usr/sbin/nologin\n")
    with (etc / "group").open("a") as file:
        file.write("messagebus:x:190:\n")
    for kind in ("auth", "account", "password", "session", "session-noninteractive"):
        rule = f"{kind.split('-')[0]} required pam_permit.so\n"
        (etc / "pam.d" / f"common-{kind}").write_text(rule, encoding="utf-8")
    (etc / "hostname").write_text("board\n", encoding="utf-8")
    # empty, not missing: no first boot, which would ask questions on the console
    (etc / "machine-id").write_text("", encoding="utf-8")
    (etc / "fstab").write_text("", encoding="utf-8")
    (etc / "systemd/network/20-wired.network").write_text(
        "[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\n", encoding="utf-8"
    )
    enable = ["systemctl", f"--root={root}", "--quiet"]
    subprocess.run([*enable, "enable", "systemd-networkd.service"], check=True)
    subprocess.run([*enable, "mask", "getty@tty1.service", "apt-daily.timer",
                    "apt-daily-upgrade.timer"], check=True)  # fmt: skip


def _kernel(root: Path, directory: Path) -> None:
    """Take the kernel out of the root, and all modules but those of the virtual machine."""
    kernel = next((root / "boot").glob("vmlinuz-*"))
    shutil.copy(kernel, directory / "vmlinuz")
    shutil.rmtree(root / "boot")
    (root / "boot").mkdir()
    modules = next((root / "lib/modules").iterdir())
    subprocess.run(["depmod", "-b", str(root), modules.name], check=True)
    needed = _in_order(root, (*DISK_MODULES, *MODULES))
    for file in modules.rglob("*.ko"):
        if file not in needed:
            file.unlink()
    subprocess.run(["depmod", "-b", str(root), modules.name], check=True)


def _in_order(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the files of kernel modules and of what they need, in the order of loading."""
    modules = next((root / "lib/modules").iterdir())
    needs = {}
    for line in (modules / "modules.dep").read_text(encoding="utf-8").splitlines():
        file, _, others = line.partition(":")
        needs[Path(file).stem] = [modules / file, *(modules / other for other in others.split())]
    # modules.dep lists what a module needs nearest first.
    return list(dict.fromkeys(f for name in names for f in reversed(needs.get(name, []))))


def _initrd(root: Path, directory: Path) -> None:
    """Write an initial root that loads the disk's driver and changes to it."""
    tree = directory / "initrd"
    for name in ("bin", "dev", "proc", "sys", "new", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "bin")
    wanted = [file.stem for file in _in_order(root, DISK_MODULES)]
    for file in _in_order(root, DISK_MODULES):
        shutil.copy(file, tree / "modules")
    (tree / "init").write_text(
        "#!/bin/busybox sh\n"
        "for f in proc:proc sysfs:sys devtmpfs:dev; do\n"
        "    /bin/busybox mount -t ${f%:*} none /${f#*:}\ndone\n"
        f"for m in {' '.join(wanted)}; do /bin/busybox insmod /modules/$m.ko; done\n"
        "i=0\nwhile [ ! -b /dev/vda ] && [ $i -lt 100 ]; do\n"
        "    /bin/busybox sleep 0.1; i=$((i+1))\ndone\n"
        "/bin/busybox mount -t ext4 /dev/vda /new\n"
        "exec /bin/busybox switch_root /new /sbin/init\n",
        encoding="utf-8",
    )
    (tree / "init").chmod(0o755)
    subprocess.run(
        f"find . | cpio -o -H newc --quiet | gzip -1 > {directory / 'initrd.gz.part'}",
        shell=True, cwd=tree, check=True,
    )  # fmt: skip
    (directory / "initrd.gz.part").rename(directory / "initrd.gz")
    shutil.rmtree(tree)


if __name__ == "__main__":
    print(make_root())
