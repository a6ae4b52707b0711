"""An emulated Raspberry Pi 3 that starts from an SD card's image, as far as qemu can be one.

`qemu-system-aarch64 -M raspi3b` has the board's processor, memory, card reader, serial port and
USB host, to which a network card is attached. It has not the board's own loader: kernel, initial
root, device tree and command line are taken from the card's boot partition here, by its
`config.txt`, and handed over.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

__all__ = ["Card", "Pi"]

#: where `tools/image/disk.py` puts the boot partition (bytes)
_BOOT = 4 << 20


class Card:
    """An SD card with a flashed image.

    Parameters
    ----------
    packed : Path
        The image, `.img.xz`.
    path : Path
        Becomes the card.
    size_mb : int
        Of the card (MiB); a power of two, as qemu wants it.
    """

    def __init__(self, packed: Path, path: Path, *, size_mb: int) -> None:
        self.path = path
        with path.open("wb") as file:
            subprocess.run(["xz", "-dc", str(packed)], stdout=file, check=True)
        self.image_bytes = path.stat().st_size
        if self.image_bytes > size_mb << 20:
            raise ValueError(f"{packed.name} has {self.image_bytes >> 20} MiB: not on {size_mb}")
        os.truncate(path, size_mb << 20)

    def put(self, name: str, text: str) -> None:
        """Copy a file to the boot partition, as a person does after flashing."""
        self._mtools("mcopy", "-D", "o", "-", f"::{name}", text=text)

    def read(self, name: str) -> str:
        """Return a file of the boot partition."""
        return self._mtools("mtype", f"::{name}").decode()

    def names(self) -> set[str]:
        """Return what lies on the boot partition."""
        listed = self._mtools("mdir", "-b", "::").decode()
        return {line.removeprefix("::/") for line in listed.splitlines()}

    def take(self, name: str, directory: Path) -> Path:
        """Copy a file of the boot partition out of it; return where."""
        target = directory / name
        self._mtools("mcopy", "-n", f"::{name}", str(target))
        return target

    def _mtools(self, tool: str, *arguments: str, text: str | None = None) -> bytes:
        return subprocess.run(
            [tool, "-i", f"{self.path}@@{_BOOT}", *arguments],
            input=None if text is None else text.encode(), capture_output=True, check=True,
        ).stdout  # fmt: skip


class Pi:
    """A running Raspberry Pi 3.

    Parameters
    ----------
    card : Card
        It is written to.
    folder : Path
        For what is taken from the card, and `console.log`.
    ssh_port, key : int, Path
        Of this machine, leads to the board's; and the private key to go in with.
    plugged_in : bool
        Whether anything is at the other end of its network cable.
    """

    def __init__(
        self, *, card: Card, folder: Path, ssh_port: int, key: Path, plugged_in: bool = True
    ) -> None:
        self.started_s = time.monotonic()
        self._ssh = [
            "ssh", "-q", "-i", str(key), "-p", str(ssh_port), "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            # an emulated key exchange takes seconds
            "-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/ssh", "-o",
            "ControlPersist=yes", "-o", "ConnectTimeout=60", "-o", "ServerAliveInterval=30",
            "root@127.0.0.1",
        ]  # fmt: skip
        (folder / "ssh").unlink(missing_ok=True)
        self._console = folder / "console.log"
        self._console.touch()
        self._begin = self._console.stat().st_size
        self._process = subprocess.Popen(
            ["qemu-system-aarch64", "-M", "raspi3b", "-accel", "tcg,thread=multi",
             *_loader(card, folder),
             # writeback: what the board has not flushed is lost with it, as in a power cut
             "-drive", f"if=sd,file={card.path},format=raw,cache=writeback",
             "-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{ssh_port}-:22",
             "-device", "usb-net,netdev=n0",
             # the first port is Bluetooth's, the second one is on the pins
             "-chardev", f"file,id=console,path={self._console},append=on",
             "-serial", "null", "-serial", "chardev:console",
             "-display", "none", "-monitor", "stdio", "-no-reboot"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        if not plugged_in:
            self._monitor("set_link n0 off")

    def plug_in(self) -> None:
        """Connect the network cable."""
        self._monitor("set_link n0 on")

    def _monitor(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()

    def console(self) -> str:
        """Return what the serial port has printed since the start."""
        with self._console.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    def wait_console(self, pattern: str, *, timeout_s: float) -> float:
        """Wait until the serial port has printed something; return the seconds since the start.

        Raises
        ------
        RuntimeError
            It did not, or the board went off before.
        """
        deadline_s = time.monotonic() + timeout_s
        while not re.search(pattern, self.console()):
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise RuntimeError(f"no {pattern!r} on the console: {self.console()[-2000:]}")
            time.sleep(0.5)
        return time.monotonic() - self.started_s

    def run(self, command: str, *, timeout_s: float = 300.0, check: bool = True) -> str:
        """Run a command over SSH and return what it printed.

        Raises
        ------
        RuntimeError
            It failed, or the board cannot be reached.
        """
        done = subprocess.run(
            [*self._ssh, command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{command}: exit code {done.returncode}: {done.stdout}")
        return done.stdout.strip()

    def wait(self, command: str, *, timeout_s: float) -> str:
        """Wait until a command succeeds; return what it printed."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                return self.run(command, timeout_s=max(1.0, deadline_s - time.monotonic()))
            except RuntimeError as error:
                if time.monotonic() > deadline_s or self._process.poll() is not None:
                    tail = self.console()[-2000:]
                    raise RuntimeError(f"not within {timeout_s:g} s: {error}; {tail}") from None
            time.sleep(1.0)

    def give(self, text: str, path: str) -> None:
        """Write a file on the board."""
        subprocess.run([*self._ssh, f"cat > {path}"], input=text, text=True, check=True)

    def power_off(self, *, timeout_s: float) -> None:
        """Switch it off as a person would."""
        self.run("systemctl --no-block poweroff")
        self._process.wait(timeout_s)

    def cut(self) -> None:
        """Take the power away."""
        self._process.kill()
        self._process.wait()


def _loader(card: Card, folder: Path) -> list[str]:
    """Do what the board's loader does with `config.txt`; return qemu's options."""
    config = card.read("config.txt")
    taken = folder / "boot"
    shutil.rmtree(taken, ignore_errors=True)
    taken.mkdir()
    kernel = re.findall(r"^kernel=(\S+)", config, re.MULTILINE)[-1]
    initrd = re.findall(r"^initramfs (\S+)", config, re.MULTILINE)[-1]
    return [
        "-kernel", str(card.take(kernel, taken)), "-initrd", str(card.take(initrd, taken)),
        # with upstream_kernel=1 the loader looks for the names of Linux itself
        "-dtb", str(card.take("bcm2837-rpi-3-b.dtb", taken)),
        "-append", card.read("cmdline.txt").strip(),
    ]  # fmt: skip
