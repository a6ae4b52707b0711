from __future__ import annotations

import sys
from pathlib import Path

# The attacks belong to a benchmark, which is a program and not a package.
sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "bench"))
