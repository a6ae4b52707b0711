"""What the agent takes: modules that it leaves alone, and memory in numbers.

The figures are of x86-64; docs/board.md has those of a board.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edge_runtime.generator import Bundle
from edge_runtime.schema import Schema

_REPOSITORY = Path(__file__).parents[2]

#: Loaded by what the agent imports until somebody looked; together some 9 MB. Enrolment, doctor
#: and signatures load what they need of it, in processes of their own or on demand.
_LEFT_ALONE = (
    "argparse",
    "asyncio",
    "concurrent.futures",
    "cryptography",
    "email",
    "gzip",
    "http.client",
    "importlib.resources",
    "multiprocessing",
    "nanoarrow",
    "numpy.ma",
    "numpy.random",
    "shutil",
    "subprocess",
    "tempfile",
    "tuf",
    "unittest",
    "urllib.request",
    "xml",
)
#: RSS at its highest without pages of files (MB): 28.2 when this was written, in four runs on a
#: busy machine within .2 of each other, and 35 to 45 before it was looked at. A tenth more allows
#: for other versions of Python and numpy; numpy.random, nanoarrow or numpy.ma take 1 to 2 each.
_OWN_MB = 31.0

_PROBE = f"""
import sys
sys.modules["onnxruntime"] = None  # not in the base install; training would take it
at_start = set(sys.modules)  # what coverage and editable installations bring
from edge_runtime.device.__main__ import main
code = main(sys.argv[1:])
print("LOADED", [n for n in {_LEFT_ALONE!r} if n in sys.modules and n not in at_start])
sys.exit(code)
"""


def loaded(device: Any, process: subprocess.Popen[bytes]) -> str:
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    found = re.search(r"LOADED (.*)", device.log.read_text())
    assert found is not None
    return found[1]


def test_an_idle_agent_has_not_loaded_what_it_does_not_need(
    device: Any, stand_in: Any, schema: Schema
) -> None:
    process = device.start("-c", _PROBE)
    stand_in.publish_schema(schema)
    stand_in.wait_state("waiting")
    assert loaded(device, process) == "[]"


def test_nor_has_one_that_counted_and_drew_rows(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema, bundle: Bundle
) -> None:
    kit.write_csv(device.source, kit.make_rows(kit.ROWS))
    process = device.start("-c", _PROBE)
    stand_in.publish_schema(schema)
    stand_in.publish_bundle(bundle)
    for plan in (kit.census_plan(schema, epsilon=1.0), kit.train_plan(bundle, steps=5)):
        stand_in.wait_state("idle", plan=stand_in.publish_plan(plan), timeout_s=60.0)
    assert stand_in.batches
    # The schema has a condition: its codes are drawn and shuffled by numpy's generator.
    assert loaded(device, process) == "['numpy.random']"


def test_the_peak_through_census_and_training_is_bounded() -> None:
    """With the kernel engine and numpy; the table and plans of docs/board.md."""
    command = [sys.executable, "tools/arm/figures.py", "--here", "--engines", "kernel"]
    done = subprocess.run(
        command, cwd=_REPOSITORY, env=os.environ | {"PYTHONPATH": str(_REPOSITORY)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    figures = np.array(done.stdout.strip().splitlines()[-1].split("|")[2:-1], dtype=float)
    idle, peak, own, after, _ = figures
    assert 15.0 < own < _OWN_MB
    assert idle < after <= peak


def test_memory_of_large_arrays_goes_back() -> None:
    """Also where glibc's own habit would keep it: after the first large array was freed."""
    program = """
import sys
import numpy as np
from edge_runtime.device.memory import hold_little
if sys.argv[1] == "held":
    hold_little()
def own():
    status = open("/proc/self/status").read()
    return int(status.partition("RssAnon:")[2].split()[0])
np.ones(8 << 20, np.uint8)
# What imports have left free would take the small ones, which are to lie between the large ones.
filled = [np.ones(2000, np.uint8) for _ in range(10_000)]
before, kept = own(), []
for _ in range(32):
    large = np.ones(1 << 20, np.uint8)
    kept.append(np.ones(2000, np.uint8))
    kept.append(np.ones(1 << 20, np.uint8))
    del large
del kept[1::2]
print((own() - before) // 1024)
"""
    kept_mb = {}
    for how in ("held", "glibc"):
        done = subprocess.run(
            [sys.executable, "-c", program, how], capture_output=True, text=True, check=True
        )
        kept_mb[how] = int(done.stdout)
    assert kept_mb["held"] < 2
    assert kept_mb["glibc"] > 8, "then hold_little is of no use any more"
