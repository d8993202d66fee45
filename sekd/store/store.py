"""The store: the only connection between teacher and student. Every read is checked against the manifest.

A shard is built under a temporary name with its entry as the last file, synced, and renamed once: a crash at any moment
leaves it absent or complete. What it leaves in ``tmp/`` has the shard's number in its name and is deleted by the next
run that locks that shard.
"""

import errno
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sekd.errors import SekdError
from sekd.files import remove, sync, sync_tree, write_whole
from sekd.recent import PASS_FILE
from sekd.store import manifest as m
from sekd.store.hidden import (
    LARGEST,
    SCALE_FILE,
    HiddenChunks,
    encode,
    open_chunks,
    read_scales,
    row_scales,
    write_hidden,
    write_scales,
)
from sekd.store.schema import PATH_LOGPROB, Layout, Plan, row_faults, schema

METHOD = "conditioned"  # the method's prompting strategy; every other one is a control
# Names and token ids repeat: dictionary encoding is smallest. A logprob's exponent repeats and its dropped mantissa
# bits are zero: byte-stream split compresses best.
SPLIT = ("topk_logprobs", "tail_logprob", PATH_LOGPROB)


class Store:
    """One teacher pass on disk: ``artifacts/<dataset>/<fingerprint>/``. Make one with ``create`` or ``open``.

    What reads a shard raises ``SekdError`` when it is missing, damaged, or of another store.
    """

    def __init__(self, path: Path, manifest: m.Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.identity, self.plan, self.layout = manifest.identity, manifest.plan, manifest.layout
        self.fingerprint = manifest.fingerprint
        self._entries: dict[int, m.Entry] = {}  # those read so far: a shard never changes

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
        if index not in self._entries:
            self._entries[index] = m.read_entry(self.path, index, self.manifest)
        return self._entries[index]

    def write_shard(
        self,
        index: int,
        rows: pa.Table,
        hidden: np.ndarray | None,
        provenance: Mapping[str, Any],
        *,
        skipped: Mapping[str, str] | None = None,
    ) -> None:
        """Write shard ``index``: complete, or not at all.

        Args:
            rows: those of ``build_rows``, in order of example, then step (0 to ``n_steps - 1``).
            hidden: ``[R, L, H]`` in the same order; float32 (rounded to the layout's type), the layout's type unless
                that has eight bits, or uint16 for the bits of bfloat16. None if and only if the layout has no layers.
            provenance: JSON-able; kept beside the data, never part of it.
            skipped: id of every example of this shard that has no rows, and why.

        Raises:
            SekdError: impossible rows or hidden states, a full disk, or a shard that is already there with other
                content. The store is as it was before.
        """
        layout, examples, skipped = self.layout, self.plan.examples(index), dict(skipped or {})
        if not rows.schema.equals(schema(layout)):
            raise SekdError(f"shard {index}: rows are those of build_rows, not of {rows.schema.names}")
        rows = rows.combine_chunks()
        if faults := row_faults(rows, layout=layout, examples=len(examples) - len(skipped)):
            raise SekdError(f"shard {index} is not stored, its rows are impossible: {'; '.join(faults)}")
        if (hidden is None) != (not layout.layers):
            raise SekdError(f"shard {index}: hidden states are given if and only if the layout has layers")
        if hidden is not None and len(hidden) != len(rows):
            raise SekdError(f"shard {index} has {len(rows)} rows but hidden states of {len(hidden)}")
        stored = None if hidden is None else encode(hidden, layout)
        building = m.temporary_name(self.path / "tmp", m.shard_name(index))
        marks = self.manifest.marks(index)
        try:
            building.mkdir()
            write_targets(building / m.TARGETS, rows, marks)
            if stored is not None:
                attributes = {**marks, "dtype": layout.hidden_dtype, "layers": list(layout.layers)}
                write_hidden(building / m.HIDDEN, stored, layout, attributes)
                if hidden is not None and layout.hidden_dtype in LARGEST:
                    write_scales(building / m.SCALE, row_scales(hidden, layout.hidden_dtype), marks)
            files = {name: m.file_digest(building / name) for name in m.files_below(building)}
            bounds = [examples.start, examples.stop]
            entry = m.Entry(self.fingerprint, index, bounds, rows=len(rows), skipped=skipped, files=files)
            (building / m.ENTRY).write_text(m.seal(vars(entry)))
            sync_tree(building)
            if not self._is_published(entry):
                self._publish(entry, building, provenance)
        except OSError as error:
            raise SekdError(
                f"shard {index} could not be written to {self.path}: {error.strerror or error}. Nothing of it was kept "
                "and finished shards are unchanged; free some space or repair the disk, then run again"
            ) from error
        finally:
            remove(building)

    def _is_published(self, entry: m.Entry) -> bool:
        """Whether this very shard is there already; differing content is an error."""
        if entry.shard not in m.listed(self.path):
            return False
        if self.entry(entry.shard) != entry:
            raise SekdError(
                f"shard {entry.shard} of {self.path} is already there with other content: two runs wrote it, and the "
                "teacher did not answer the same twice. Forget the shard with `python -m sekd.store.verify --forget`"
            )
        return True

    def _publish(self, entry: m.Entry, building: Path, provenance: Mapping[str, Any]) -> None:
        folder = m.shard_folder(self.path, entry.shard)
        body = {**provenance, "written": datetime.now(UTC).isoformat(timespec="seconds")}
        temporary = m.temporary_name(self.path / "tmp", m.shard_name(entry.shard))
        write_whole(m.provenance_file(self.path, entry.shard), m.seal(body), temporary)
        try:
            building.rename(folder)
        except OSError as error:
            # Another process published it in between: a directory is never renamed onto one that holds files.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not self._is_published(entry):
                raise
        sync(folder.parent)

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
        prefix, listed = m.HIDDEN + "/", self.entry(index).files
        files = {name.removeprefix(prefix): f for name, f in listed.items() if name.startswith(prefix)}
        folder, scale_RL = m.shard_folder(self.path, index), None
        if self.layout.hidden_dtype in LARGEST:
            name = f"{m.SCALE}/{SCALE_FILE}"
            scale_RL = read_scales(folder / name, listed.get(name), len(self.layout.layers))
        return open_chunks(folder / m.HIDDEN, files=files, scale_RL=scale_RL)

    def hidden(self, index: int) -> np.ndarray:
        """Shard ``index``'s hidden states ``[R, L, H]`` as stored, or of eight bits float32."""
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


def write_targets(file: Any, rows: pa.Table, marks: Mapping[str, str]) -> None:
    """Write rows to a path or buffer, with ``marks`` in the metadata. Equal rows give equal bytes."""

    def path(name: str) -> str:
        return f"{name}.list.element" if pa.types.is_nested(rows.schema.field(name).type) else name

    pq.write_table(
        rows.replace_schema_metadata(dict(marks)),
        file,
        row_group_size=max(len(rows), 1),
        compression="zstd",
        compression_level=9,
        use_dictionary=[path(name) for name in rows.column_names if name not in SPLIT],
        column_encoding={path(name): "BYTE_STREAM_SPLIT" for name in SPLIT if name in rows.column_names},
        write_statistics=False,
        write_page_checksum=True,
    )
