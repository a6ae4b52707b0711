from typing import Any

# cffi's own objects have no useful static types; `_call.py` is the only module that touches them.
ffi: Any
lib: Any
