"""The artifact store: the teacher's answers on disk, with checksums. See ``artifacts/README.md``."""

from sekd.store.hidden import HiddenChunks, as_float32, bfloat16_bits
from sekd.store.manifest import DamagedStoreError, fingerprint
from sekd.store.schema import Layout, Plan, build_rows, schema
from sekd.store.store import Store

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
