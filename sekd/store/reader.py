"""The store: the only connection between teacher and student. Every read is checked against the manifest."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sekd.errors import SekdError
from sekd.files import write_whole
from sekd.recent import PASS_FILE
from sekd.store import manifest as m
from sekd.store import writer
from sekd.store.hidden import HiddenChunks, open_chunks
from sekd.store.schema import Layout, Plan

METHOD = "conditioned"  # the method's prompting strategy; every other one is a control


class Store:
    """One teacher pass on disk: ``artifacts/<dataset>/<fingerprint>/``. Make one with ``create`` or ``open``.

    What reads a shard raises ``SekdError`` when it is missing, damaged, or of another store.
    """

    def __init__(self, path: Path, manifest: m.Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.identity, self.plan, self.layout = manifest.identity, manifest.plan, manifest.layout
        self.fingerprint = manifest.fingerprint

    @property
    def paradigm(self) -> str:
        """The teacher's prompting strategy."""
        return self.identity.get("paradigm", METHOD)

    @property
    def by_adapter(self) -> bool:
        """Whether the model answered with an adapter."""
        model = self.identity.get("model")
        return isinstance(model, dict) and model.get("adapter") is not None

    @classmethod
    def create(cls, root: Path, *, identity: dict[str, Any], plan: Plan, layout: Layout) -> "Store":
        """The store of this identity and layout below ``root`` (``artifacts/<dataset>``), new or existing.

        An existing store keeps its own ``shard_size``, which changes no answer: use ``store.plan`` from here on.
        """
        manifest = m.Manifest(identity=identity, plan=plan, layout=layout)
        path = root / manifest.fingerprint
        for folder in m.FOLDERS:
            (path / folder).mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for file, body in ((m.CREATED, {"created": now}), (m.MANIFEST, manifest.to_json())):
            if not (path / file).exists():
                write_whole(path / file, m.seal(body), m.temporary_name(path / "tmp", "store"))
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open the store in ``path``, complete or not; raises ``SekdError`` if there is none or it is damaged."""
        path = Path(path)
        if not (path / m.MANIFEST).exists():
            raise SekdError(f"{path} holds no store: expected a {m.MANIFEST} in it; `make teacher` makes one")
        return cls(path, m.read_manifest(path))

    @classmethod
    def find(cls, artifacts: Path, dataset: str, paradigm: str = METHOD) -> "Store":
        """The complete store of ``dataset`` with this prompting strategy whose teacher command ended last.

        A command that found its pass complete counts too, so that a later trial pass does not hide it. Controls are
        found only by name. A pass in which an adapter answered, such as a student's for the next round, is never found.

        Raises:
            SekdError: there is none; the message lists those that are there.
        """
        stores = [cls.open(file.parent) for file in sorted((Path(artifacts) / dataset).glob(f"*/{m.MANIFEST}"))]
        usable = [s for s in stores if not s.missing() and s.paradigm == paradigm and not s.by_adapter]
        if not usable:
            found = ", ".join(
                f"{s.path} ({s.paradigm}{', by an adapter' if s.by_adapter else ''}, "
                f"{s.plan.n_shards - len(s.missing())} of {s.plan.n_shards} shards)"
                for s in stores
            )
            raise SekdError(
                f"no complete {paradigm} teacher pass over {dataset!r} in {artifacts}; `make teacher"
                + ("" if paradigm == METHOD else f" ARGS=paradigm={paradigm}")
                + f"` makes one. Found: {found or 'none'}"
            )
        return max(usable, key=_last_asked_for)

    def missing(self) -> list[int]:
        """The missing shards, in order. Read from disk each time, because other processes may be writing."""
        return sorted(set(range(self.plan.n_shards)) - set(m.listed(self.path)))

    def entry(self, index: int) -> m.Entry:
        """The entry of shard ``index``: its rows, its files, the examples skipped and why."""
        if not m.shard_folder(self.path, index).exists():
            raise SekdError(f"{self.path}: shard {index} of {self.plan.n_shards} is missing; run `make teacher`")
        return m.read_entry(self.path, index, self.manifest)

    write_shard = writer.write_shard

    def read_targets(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of shard ``index``; every byte of the file is checked, whichever columns are asked for."""
        file = m.shard_folder(self.path, index) / m.TARGETS
        raw = m.read_checked(file, self.entry(index).files[m.TARGETS])
        parquet = pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True)
        marks = {key.decode(): value.decode() for key, value in (parquet.schema_arrow.metadata or {}).items()}
        if marks != self.manifest.marks(index):
            raise m.DamagedStoreError(file, f"marked {marks}, expected {self.manifest.marks(index)}")
        return parquet.read(columns=None if columns is None else list(columns)).replace_schema_metadata(None)

    def hidden_chunks(self, index: int) -> HiddenChunks:
        """Shard ``index``'s hidden states for reading chunk by chunk; ``SekdError`` where the layout has no layers."""
        if not self.layout.layers:
            raise SekdError(f"{self.path} holds no hidden states: the teacher ran with layers=[]")
        prefix = m.HIDDEN + "/"
        files = {name.removeprefix(prefix): f for name, f in self.entry(index).files.items() if name.startswith(prefix)}
        return open_chunks(m.shard_folder(self.path, index) / m.HIDDEN, files=files)

    def hidden(self, index: int) -> np.ndarray:
        """Shard ``index``'s hidden states ``[R, L, H]`` as stored."""
        chunks = self.hidden_chunks(index)
        return np.concatenate([np.empty((0, *chunks.shape[1:]), chunks.dtype), *map(chunks.read, range(len(chunks)))])

    def provenance(self, index: int) -> dict[str, Any]:
        """The machine, time, versions and settings of shard ``index``."""
        return m.read_sealed(m.provenance_file(self.path, index))


def _last_asked_for(store: Store) -> float:
    """When the pass's command last ended, in seconds since 1970; else when the store was created."""
    recorded = store.path / PASS_FILE
    if recorded.is_file():
        return recorded.stat().st_mtime
    return datetime.fromisoformat(m.read_sealed(store.path / m.CREATED)["created"]).timestamp()
