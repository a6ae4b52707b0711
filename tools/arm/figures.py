"""What the device's agent takes, for docs/board.md: memory with each engine, and the first batch.

    sudo .venv/bin/python tools/arm/figures.py          # an emulated board; some twenty minutes
    .venv/bin/python tools/arm/figures.py --here        # this machine; half a minute

The real agent, over a real broker. For each engine: resident memory before any plan, its peak
through a census and a private training, and the time from the start of its process to the first
batch in its outbox, for a plan that asks for 4,096 rows of a bundle that it has.

The emulated board counts instructions, one per nanosecond of its own time (`-icount shift=0`). So
its seconds are thousands of millions of instructions, whatever else this machine does, and a
processor at f GHz that retires i instructions per cycle takes that number divided by f * i. There
`tools/board-bench` is run as well, for the local epoch. Memory of the board is that of a board.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tools/deb")]

import emulate  # noqa: E402 - tools are programs beside each other, not a package
from machine import HOST_ADDRESS, Machine, make_disk  # noqa: E402
from root import CACHE, make_root, precompile, unpack  # noqa: E402
from wheels import TARGETS, build_wheel, install_wheels  # noqa: E402

from edge_runtime.fleet.broker import start_broker  # noqa: E402
from edge_runtime.generator import (  # noqa: E402
    Bundle,
    Layout,
    Lineage,
    build_bundle,
    initial_weights,
)
from edge_runtime.messages import (  # noqa: E402
    Ack,
    DeviceState,
    Link,
    Plan,
    RowRequest,
    Topics,
    TrainRequest,
    decode_state,
    encode_ack,
    encode_plan,
    new_id,
)
from edge_runtime.schema import Codec, Column, Schema  # noqa: E402

#: as tools/board-bench: the shape of the tables in docs/engines.md
COLUMNS, CODES, HIDDEN, BATCH, ROWS, STEPS = 14, 18, 128, 256, 20_000, 20
FLEET, DEVICE = "figures", "board"
#: what each run has beside the base install; training takes onnxruntime if it is there
ENGINES = {"kernel": (), "tflite": ("ai-edge-litert",), "onnx": ("onnxruntime",)}
#: counting is some ten times slower than emulation without it
PATIENCE_S = 3600.0
_CONFIG = """\
[device]
id = "{device}"
fleet = "{fleet}"
state_dir = "{state}"
[broker]
host = "{host}"
port = {port}
keepalive_s = 3600
[source]
path = "{rows}"
follow = false
[privacy]
epsilon = 100.0
[engine]
name = "{engine}"
[limits]
memory_bytes = 0
"""
_HERE = """\
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))
from edge_runtime.device.__main__ import main
sys.exit(main())
"""


def make_table(path: Path) -> Bundle:
    """Write rows, and return an untrained generator for them, with its .tflite file."""
    codes = np.random.default_rng(0).integers(0, CODES, (ROWS, COLUMNS))
    names = [f"c{i}" for i in range(COLUMNS)]
    lines = [",".join(names), *(",".join(f"v{code}" for code in row) for row in codes)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    values = tuple(f"v{k}" for k in range(CODES))
    columns = tuple(Column(name=name, kind="category", values=values) for name in names)
    schema = Schema(name="figures", columns=columns)
    codec = Codec(schema=schema, bins={})
    layout = Layout(codec.cardinalities, HIDDEN)
    return build_bundle(
        schema, codec, layout, initial_weights(layout, seed=0), tflite=True,
        lineage=Lineage(parent=None, depth=0, round=0, devices=1, rows=float(ROWS), privacy={}),
    )  # fmt: skip


class StandIn:
    """Stands in for the aggregator: publishes plans, accepts everything, remembers the state."""

    def __init__(self, port: int, bundle: Bundle) -> None:
        self._topics, self._bundle = Topics(FLEET), bundle
        self._news = threading.Condition()
        self._state: DeviceState | None = None
        self.link = Link(
            host="127.0.0.1", port=port, client_id="stand-in", on_message=self._on_message,
            topics=(self._topics.all_states, self._topics.all_batches, self._topics.all_summaries),
        ).start()  # fmt: skip
        self.link.wait_connected(20.0)
        self._publish(self._topics.schema, bundle.schema.to_json())
        self._publish(self._topics.bundle(bundle.digest), bundle.to_bytes())

    def _publish(self, topic: str, payload: bytes) -> None:
        self.link.publish(topic, payload, retain=True).wait(20.0)

    def forget(self) -> None:
        """Take back the last plan and what is known of the device."""
        self._publish(self._topics.plan, b"")
        self._publish(self._topics.state(DEVICE), b"")
        self._state = None

    def plan(self, kind: str, **parts: Any) -> Plan:
        """Publish a plan."""
        about = {} if kind == "census" else {"bundle_digest": self._bundle.digest}
        plan = Plan(
            fleet=FLEET, id=new_id(), round=int(kind != "census"), kind=kind,  # type: ignore[arg-type]
            schema_digest=self._bundle.schema.digest, deadline_s=PATIENCE_S, quorum=1,
            **{"epsilon_after": 8.0, "delta": 1e-5, **about, **parts},
        )  # fmt: skip
        self._publish(self._topics.plan, encode_plan(plan))
        return plan

    def wait(self, plan: Plan | None) -> None:
        """Wait until the device is at rest, after a plan if one is given."""

        def there() -> bool:
            state = self._state
            if state is None:
                return False
            if plan is None:  # it may be "waiting" already, for a plan
                return state.status in ("online", "waiting", "idle")
            if state.status not in ("idle", "declined", "failed"):
                return False
            if state.plan_id == plan.id and state.status in ("declined", "failed"):
                sys.exit(f"the device does not take the plan: {state.reason}")
            return state.plan_id == plan.id and state.status == "idle" and state.outbox == 0

        with self._news:
            if not self._news.wait_for(there, PATIENCE_S):
                sys.exit(f"not within {PATIENCE_S:g} s; the device's last state: {self._state}")

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        address = self._topics.parse(topic)
        with self._news:
            if address.kind == "state":
                self._state = decode_state(payload) if payload else None
            elif payload:
                sha256 = hashlib.sha256(payload).hexdigest()
                ack = Ack(id="", sequence=0, sha256=sha256, status="accepted")
                self.link.publish(self._topics.ack(DEVICE), encode_ack(ack))
            self._news.notify_all()


class Here:
    """The agent as a process of this machine."""

    #: what the seconds of this machine are
    unit = "s"

    def __init__(self, directory: Path, port: int) -> None:
        self._directory, self._port = directory, port
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "agent.log"
        self._began_s = 0.0

    def prepare(self, engine: str) -> None:
        """Begin with an empty store."""
        shutil.rmtree(self._directory / "state", ignore_errors=True)
        (self._directory / "device.toml").write_text(
            _CONFIG.format(device=DEVICE, fleet=FLEET, state="state", host="127.0.0.1",
                           port=self._port, rows="rows.csv", engine=engine),
            encoding="utf-8",
        )  # fmt: skip
        # Bytecode, as the package has it: what is compiled at the start stays in memory.
        done = [sys.executable, "-c", "import edge_runtime.device.agent"]
        subprocess.run(done, env=self._environment(), check=True)
        others = set(ENGINES) - {engine}
        self._hidden = ",".join(
            name.replace("-", "_") for other in others for name in ENGINES[other]
        )

    def start(self) -> None:
        """Start the agent."""
        self._log.write_bytes(b"")
        self._began_s = time.time()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _HERE, self._hidden, "--config",
                 str(self._directory / "device.toml")],
                stderr=log, env=self._environment(),
            )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(REPOSITORY), "PYTHONPYCACHEPREFIX": str(self._directory / "pyc")}
        kept = os.environ.items()
        return {k: v for k, v in kept if k != "PYTHONDONTWRITEBYTECODE" and k[:3] != "COV"} | own

    def memory_mb(self, field: str) -> float:
        """Return a field of its /proc/PID/status, in MB."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition(f"{field}:")[2].split()[0]) / 1024

    def first_batch_s(self) -> float:
        """From the start of the process to the line in its log."""
        line = next(x for x in self._log.read_text().splitlines() if "rows enqueued" in x)
        return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp() - self._began_s

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


class Board:
    """The agent as the service of an emulated board that counts its instructions."""

    unit = "thousand million instructions"
    _SERVICE = "edge-runtime-device.service"

    def __init__(self, directory: Path, port: int) -> None:
        self._port = port
        base = make_root()
        root = directory / "root"
        unpack(base / "root.tar", root)
        site = root / "opt/edge-runtime/lib/python3.11/site-packages"
        deb = _build(directory / "packages")
        done = emulate.run(root, ["dpkg", "--install", f"/packages/{deb.name}"], board="pi4",
                           binds={deb.parent: "/packages"}, timeout_s=PATIENCE_S)  # fmt: skip
        if done.returncode:
            sys.exit(done.stdout)
        wheel = build_wheel(TARGETS["arm64"], CACHE / "figures")
        for engine, wanted in ENGINES.items():
            if wanted:
                target = root / "opt" / engine
                install_wheels(TARGETS["arm64"], "3.11", wanted, target, wheel)
                for there in site.iterdir():
                    part = target / there.name
                    shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
                precompile(target, root)
        shutil.copy(REPOSITORY / "tools/board-bench", root / "root/board-bench")
        shutil.copy(directory / "rows.csv", root / "srv/rows.csv")
        make_disk(root, directory / "disk.img", size_mb=1536)
        shutil.rmtree(root)
        self.machine = Machine(disk=directory / "disk.img", kernel=base / "vmlinuz",
                               initrd=base / "initrd.gz", log=directory / "console.log",
                               count_instructions=True)  # fmt: skip
        self.machine.wait_ready(timeout_s=PATIENCE_S)
        self._site = "/" + str(site.relative_to(root))

    def _run(self, command: str) -> str:
        return self.machine.run(command, timeout_s=PATIENCE_S)

    def boot_s(self) -> float:
        """Return the board's seconds from the kernel's start to now."""
        return float(self._run("cat /proc/uptime").split()[0])

    def prepare(self, engine: str) -> None:
        """Begin with an empty store."""
        config = _CONFIG.format(device=DEVICE, fleet=FLEET, state="/var/lib/edge-runtime",
                                host=HOST_ADDRESS, port=self._port, rows="/srv/rows.csv",
                                engine=engine)  # fmt: skip
        self._run(
            "rm -rf /var/lib/edge-runtime/*; "
            f"printf '{config.encode('unicode_escape').decode()}' >/etc/edge-runtime/device.toml; "
            f"echo /opt/{engine} >{self._site}/engine.pth"
        )

    def start(self) -> None:
        """Start the agent."""
        self._run(f"systemctl start {self._SERVICE}")

    def memory_mb(self, field: str) -> float:
        """Return a field of its /proc/PID/status, in MB."""
        pid = self._run(f"systemctl show -P MainPID {self._SERVICE}")
        return int(self._run(f"grep {field}: /proc/{pid}/status").split()[1]) / 1024

    def first_batch_s(self) -> float:
        """From the start of the service's main process to the line in the journal."""
        began = self._run(f"systemctl show -P ExecMainStartTimestampMonotonic {self._SERVICE}")
        journal = self._run(f"journalctl -u {self._SERVICE} -o short-monotonic --no-pager")
        line = [x for x in journal.splitlines() if "rows enqueued" in x][-1]
        found = re.search(r"\[\s*([\d.]+)\]", line)
        assert found is not None
        return float(found[1]) - int(began) / 1e6

    def stop(self) -> None:
        """End it."""
        self._run(f"systemctl stop {self._SERVICE}")

    def epoch(self, engine: str, rows: int) -> str:
        """Return what board-bench says of a local epoch."""
        self._run(f"echo /opt/{engine} >{self._site}/engine.pth")
        shown = self._run(f"/root/board-bench --skip-service --rows {rows}")
        return "\n".join(line for line in shown.splitlines() if "epoch" in line)


def _build(out: Path) -> Path:
    command = [sys.executable, str(REPOSITORY / "tools/deb/build.py"), "--arch", "arm64",
               "--packages", "edge-runtime", "--level", "0", "--out", str(out),
               "--work", str(out / "work")]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(out.glob("*.deb"))


def measure(agent: Here | Board, stand_in: StandIn, engine: str) -> tuple[float, ...]:
    """Return what a line of the table says: memory (MB), and the time to the first batch.

    Memory idle, at its peak, the peak without pages of files, which the kernel takes back where
    memory is short, and after training.
    """
    stand_in.forget()
    agent.prepare(engine)
    agent.start()
    stand_in.wait(None)
    idle = agent.memory_mb("VmRSS")
    stand_in.wait(stand_in.plan("census", epsilon_after=1.0))
    train = TrainRequest(steps=STEPS, expected_batch=BATCH, clip_norm=1.0, learning_rate=0.01)
    rows = RowRequest(share=0.2, minimum=4096, maximum=4096)
    stand_in.wait(stand_in.plan("train", train=train, rows=rows))
    peak, after = agent.memory_mb("VmHWM"), agent.memory_mb("VmRSS")
    own = peak - agent.memory_mb("RssFile")
    agent.stop()
    stand_in.forget()
    plan = stand_in.plan("sample", rows=rows)
    agent.start()
    stand_in.wait(plan)
    first = agent.first_batch_s()
    agent.stop()
    return idle, peak, own, after, first


def main() -> int:
    """Measure what the options name, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--here", action="store_true", help="on this machine, not emulated")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--epoch-rows", type=int, default=2560, help="of the emulated local epoch")
    options = parser.parse_args()
    if not options.here and (lacking := emulate.missing()):
        sys.exit(f"an emulated board needs: {lacking}")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        bundle = make_table(directory / "rows.csv")
        with start_broker(directory / "broker") as broker:
            stand_in = StandIn(broker.port, bundle)
            if options.here:
                agent: Here | Board = Here(directory, broker.port)
            else:
                emulate.prepare()
                agent = Board(directory, broker.port)
                print(f"boot to all services: {agent.boot_s():.1f} {agent.unit}", flush=True)
            try:
                print(
                    "| engine | idle, MB | peak, MB | of it no file pages, MB | after, MB "
                    f"| first batch, {agent.unit} |"
                )
                print("| --- | --- | --- | --- | --- | --- |")
                for engine in options.engines:
                    *parts, first = measure(agent, stand_in, engine)
                    memory = " | ".join(f"{part:.1f}" for part in parts)
                    print(f"| {engine} | {memory} | {first:.2f} |", flush=True)
                if isinstance(agent, Board):
                    print(agent.epoch("onnx", options.epoch_rows))
            finally:
                stand_in.link.close()
                if isinstance(agent, Board):
                    agent.machine.cut()
                else:
                    agent.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
