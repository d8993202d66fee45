"""The metadata of a store: one manifest for the whole, one entry per shard, all as JSON with its own checksum.

``artifacts/README.md`` shows the folder. A shard's entry is inside its folder, so one rename publishes data and entry
together, and any number of processes on a shared disk publish shards without rewriting each other's files.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sekd.errors import SekdError
from sekd.store.schema import FORMAT, Layout, Plan

MANIFEST = "manifest.json"
CREATED = "provenance/store.json"
TARGETS = "targets.parquet"
HIDDEN = "hidden.zarr"
SCALE = "scale.zarr"
ENTRY = "shard.json"
LOOKED = "provenance/looked-"  # while a pass is not complete: which images were found to decode
FOLDERS = ("shards", "provenance", "tmp", "locks")


class DamagedStoreError(SekdError):
    """A file of a store differs from the manifest. ``file`` and ``what`` are reported by ``verify``."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(file, what)  # both, so that another process can build the same error
        self.file = file
        self.what = what

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; `python -m sekd.store.verify` names every fault of the store"


def fingerprint(identity: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of ``identity`` as canonical JSON: the order of keys is
    irrelevant, every value and its type matter (``1``, ``1.0``, ``True`` and ``"1"`` differ), tuples count as lists.

    Raises:
        SekdError: the identity holds a value with no unique JSON text (a path, a NaN, a key that is no string).
    """
    return _canonical_hash(identity, "identity")[:16]


def _canonical_hash(value: Any, where: str) -> str:
    """SHA-256 of JSON with sorted keys and no spaces, in ASCII."""
    _refuse_ambiguous(value, where)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_ambiguous(value: Any, where: str) -> None:
    match value:
        case dict():
            for key, item in value.items():
                if type(key) is not str:
                    raise SekdError(f"{where}: the key {key!r} is {type(key).__name__}, expected text")
                _refuse_ambiguous(item, f"{where}.{key}")
        case list() | tuple():
            for position, item in enumerate(value):
                _refuse_ambiguous(item, f"{where}[{position}]")
        case float() if value != value or abs(value) == float("inf"):
            raise SekdError(f"{where} is {value}, expected a finite number")
        case _ if type(value) not in (str, int, float, bool, type(None)):
            raise SekdError(f"{where} is {type(value).__name__}, expected text, number, boolean, list or mapping")


def seal(body: Mapping[str, Any]) -> str:
    """``body`` as JSON text that contains its own checksum. Equal bodies give equal text."""
    checksum = _canonical_hash(dict(body), "body")
    return json.dumps({**body, "checksum": checksum}, sort_keys=True, indent=1) + "\n"


def unseal(raw: bytes) -> dict[str, Any] | None:
    """The body of ``seal``'s text; None if a byte of it changed."""
    try:
        body = json.loads(raw)
        del body["checksum"]
        return body if seal(body).encode() == raw else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def read_sealed(file: Path) -> dict[str, Any]:
    """The body of a file whose text is ``seal``'s; raises ``DamagedStoreError`` if it is missing or a byte changed."""
    if not file.exists():
        raise DamagedStoreError(file, "missing")
    if (body := unseal(file.read_bytes())) is None:
        raise DamagedStoreError(file, "its own checksum does not match its content")
    return body


def file_digest(file: Path) -> dict[str, Any]:
    """A file's size in bytes and its SHA-256."""
    with file.open("rb") as stream:
        return {"bytes": os.fstat(stream.fileno()).st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def check_size(file: Path, recorded: Mapping[str, Any]) -> None:
    """Raises ``DamagedStoreError`` when a shard's file is missing or has another size than the entry records."""
    if not file.exists():
        raise DamagedStoreError(file, f"missing, though {ENTRY} lists it")
    if (size := file.stat().st_size) != recorded["bytes"]:
        raise DamagedStoreError(file, f"{size} bytes long, {ENTRY} says {recorded['bytes']}")


def read_checked(file: Path, recorded: Mapping[str, Any]) -> bytes:
    """The bytes of a shard's file; raises ``DamagedStoreError`` unless size and SHA-256 are as the entry records."""
    check_size(file, recorded)
    raw = file.read_bytes()
    if hashlib.sha256(raw).hexdigest() != recorded["sha256"]:
        raise DamagedStoreError(file, f"does not match its checksum in {ENTRY}")
    return raw


def files_below(folder: Path) -> list[str]:
    """Every file below ``folder``, as sorted relative names with ``/``."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def temporary_name(folder: Path, stem: str) -> Path:
    """A name in ``folder`` that no other process uses; its stem tells what it belongs to if it is left behind."""
    return folder / f"{stem}.{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True)
class Manifest:
    """A store's content: the questions and model (``identity``), and the rows' layout and shards."""

    identity: dict[str, Any]
    plan: Plan
    layout: Layout

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the identity, the layout and the number of examples, but not of the size of shards."""
        return fingerprint({k: v for k, v in self._fields().items() if k != "shard_size"})

    def _fields(self) -> dict[str, Any]:
        return {"format": FORMAT, "identity": self.identity, "layout": self.layout.to_json(), **vars(self.plan)}

    def to_json(self) -> dict[str, Any]:
        return {**self._fields(), "fingerprint": self.fingerprint}

    def marks(self, index: int) -> dict[str, str]:
        """The metadata of both data files of a shard, by which a file of another store is detected."""
        return {"format": str(FORMAT), "fingerprint": self.fingerprint, "shard": str(index)}


def read_manifest(store: Path) -> Manifest:
    """Raises ``DamagedStoreError`` when the manifest is missing, changed, or of another format."""
    file = store / MANIFEST
    body = read_sealed(file)
    if body.get("format") != FORMAT:
        raise DamagedStoreError(file, f"written in format {body.get('format')}, this version reads {FORMAT}")
    manifest = Manifest(body["identity"], Plan(body["n_examples"], body["shard_size"]), Layout(**body["layout"]))
    if manifest.fingerprint != body["fingerprint"]:
        raise DamagedStoreError(file, f"its fingerprint is not {body['fingerprint']} as it says")
    return manifest


def shard_name(index: int) -> str:
    return f"{index:05d}"


def shard_folder(store: Path, index: int) -> Path:
    return store / "shards" / shard_name(index)


def provenance_file(store: Path, index: int) -> Path:
    return store / "provenance" / f"{shard_name(index)}.json"


@dataclass(frozen=True)
class Entry:
    """One complete shard, of the examples ``[start, stop)``. ``files`` maps a name inside the shard to its ``bytes``
    and ``sha256``; ``skipped`` maps the id of an example without rows to the reason."""

    fingerprint: str
    shard: int
    examples: list[int]
    rows: int
    skipped: dict[str, str]
    files: dict[str, dict[str, Any]]


def read_entry(store: Path, index: int, manifest: Manifest | None) -> Entry:
    """The entry of one shard, checked against the manifest unless that is None; raises ``DamagedStoreError``."""
    file = shard_folder(store, index) / ENTRY
    body = read_sealed(file)
    entry = Entry(**body)
    if entry.shard != index:
        raise DamagedStoreError(file, f"of shard {entry.shard}, expected {index}")
    if manifest is None:
        return entry
    if entry.fingerprint != manifest.fingerprint:
        raise DamagedStoreError(file, f"of fingerprint {entry.fingerprint}, expected {manifest.fingerprint}")
    if range(*entry.examples) != (expected := manifest.plan.examples(index)):
        raise DamagedStoreError(file, f"covers examples {range(*entry.examples)}, the plan says {expected}")
    return entry


def listed(store: Path) -> list[int]:
    """The shards that exist, by their folders' names."""
    names = (folder.name for folder in (store / "shards").glob("*"))
    return sorted(int(name) for name in names if name.isdigit() and shard_name(int(name)) == name)
