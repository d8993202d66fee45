"""The artifact store: what the teacher said, on disk, in a form that cannot lie. See ``artifacts/README.md``."""

from sekd.store.files import DamagedStoreError
from sekd.store.fingerprint import fingerprint
from sekd.store.hidden import HiddenChunks, as_float32, bfloat16_bits
from sekd.store.reader import Store
from sekd.store.schema import Layout, Plan, build_rows, schema

__all__ = [
    "DamagedStoreError",
    "HiddenChunks",
    "Layout",
    "Plan",
    "Store",
    "as_float32",
    "bfloat16_bits",
    "build_rows",
    "fingerprint",
    "schema",
]
