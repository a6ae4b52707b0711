"""What the examples stand beside: real rows, and the project's own generator of the same table.

Run it by ``python -m tools.models.reference --data digits --out models``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from edge_runtime import Generator
from tools.models.data import TABLES, Data, load_data
from tools.models.quality import draw, measure, measure_real

__all__ = ["load_reference", "reference_path"]

#: As in the federation bench: small tables take more passes.
_HIDDEN = {"digits": 192, "flights": 128}
_EPOCHS = {"digits": 120, "flights": 30}


def reference_path(out: Path) -> Path:
    """Return where the figures stand."""
    return out / "reference.json"


def load_reference(data: Data, out: Path) -> dict[str, Any]:
    """Return the figures of one table: ``real`` and ``autoregressive``."""
    figures: dict[str, Any] = json.loads(reference_path(out).read_text())[data.name]
    return figures


def main() -> None:
    """Measure both and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=sorted(TABLES), required=True)
    parser.add_argument("--out", type=Path, default=Path("models"))
    options = parser.parse_args()
    data = load_data(options.data)
    hidden, epochs = _HIDDEN[data.name], _EPOCHS[data.name]
    start = time.perf_counter()
    generator = Generator.fit(
        data.train.to_arrow(), data.schema, hidden=hidden, epochs=epochs, seed=0
    )
    seconds = time.perf_counter() - start
    figures = {
        "real": measure_real(data),
        "autoregressive": {
            **measure(data, draw(data, generator)),
            "settings": {"hidden": hidden, "epochs": epochs},
            "bytes": len(generator.bundle.to_bytes()),
            "training_s": round(seconds),
        },
    }
    path = reference_path(options.out)
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, data.name: figures}, indent=1, sort_keys=True) + "\n")
    print(data.name, json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
