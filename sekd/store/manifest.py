"""What a store says about itself: one manifest for the whole, and one entry for every shard that is there.

```
manifest.json                what was asked, of whom, in which layout      sealed, written once
shards/00007/shard.json      shard 7: its rows, its files' SHA-256         sealed, the last file written
shards/00007/targets.parquet, shards/00007/hidden.zarr/                    covered by shard.json
provenance/00007.json        when, where and by what shard 7 was made      sealed; differs from run to run
tmp/, locks/                 only while a run is at work
```

The entry travels inside its shard, so that one rename publishes data and entry together: no moment has one without
the other, and any number of processes on a shared disk publish shards without rewriting what another has written.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekd.store.files import DamagedStoreError, read_sealed
from sekd.store.fingerprint import fingerprint
from sekd.store.schema import FORMAT, Layout, Plan

MANIFEST = "manifest.json"
TARGETS = "targets.parquet"
HIDDEN = "hidden.zarr"
ENTRY = "shard.json"
FOLDERS = ("shards", "provenance", "tmp", "locks")


@dataclass(frozen=True)
class Manifest:
    identity: dict[str, Any]
    plan: Plan
    layout: Layout

    @property
    def fingerprint(self) -> str:
        """Covers the identity, the layout and the number of examples, but not how they are cut into shards."""
        return fingerprint(
            {
                "format": FORMAT,
                "identity": self.identity,
                "layout": self.layout.to_json(),
                "n_examples": self.plan.n_examples,
            }
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "identity": self.identity,
            "layout": self.layout.to_json(),
            "n_examples": self.plan.n_examples,
            "shard_size": self.plan.shard_size,
        }


@dataclass(frozen=True)
class Entry:
    """One whole shard. ``files`` maps a name inside the shard to its ``bytes`` and ``sha256``; ``skipped`` maps
    the id of an example of which there are no rows to the reason."""

    fingerprint: str
    shard: int
    examples: tuple[int, int]
    rows: int
    skipped: dict[str, str]
    files: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "shard": self.shard,
            "examples": list(self.examples),
            "rows": self.rows,
            "skipped": self.skipped,
            "files": self.files,
        }


def read_manifest(store: Path) -> Manifest:
    """Raises ``DamagedStoreError`` when the manifest is missing, changed, or of another format."""
    file = store / MANIFEST
    body = read_sealed(file)
    if body.get("format") != FORMAT:
        raise DamagedStoreError(file, f"written in format {body.get('format')}, this version reads {FORMAT}")
    plan = Plan(n_examples=body["n_examples"], shard_size=body["shard_size"])
    manifest = Manifest(identity=body["identity"], plan=plan, layout=Layout(**body["layout"]))
    if manifest.fingerprint != body["fingerprint"]:
        raise DamagedStoreError(file, f"its fingerprint is not {body['fingerprint']} as it says")
    return manifest


def entry_file(store: Path, index: int) -> Path:
    return shard_folder(store, index) / ENTRY


def shard_folder(store: Path, index: int) -> Path:
    return store / "shards" / shard_name(index)


def provenance_file(store: Path, index: int) -> Path:
    return store / "provenance" / f"{shard_name(index)}.json"


def shard_name(index: int) -> str:
    return f"{index:05d}"


def read_entry(store: Path, index: int, manifest: Manifest) -> Entry:
    """The entry of one shard, refused unless it speaks of this shard of this store.

    Raises:
        DamagedStoreError: missing, changed, or of another fingerprint, shard or plan.
    """
    file, entry = entry_file(store, index), read_entry_alone(store, index)
    expected = manifest.plan.examples(index)
    if entry.fingerprint != manifest.fingerprint:
        raise DamagedStoreError(file, f"of fingerprint {entry.fingerprint}, expected {manifest.fingerprint}")
    if entry.examples != (expected.start, expected.stop):
        raise DamagedStoreError(
            file, f"covers examples {entry.examples}, the plan says {(expected.start, expected.stop)}"
        )
    return entry


def read_entry_alone(store: Path, index: int) -> Entry:
    """The entry of one shard, checked against its own checksum and folder but not against the manifest."""
    file = entry_file(store, index)
    body = read_sealed(file)
    if body["shard"] != index:
        raise DamagedStoreError(file, f"of shard {body['shard']}, expected {index}")
    return Entry(**{**body, "examples": tuple(body["examples"])})


def listed(store: Path) -> list[int]:
    """The shards that are there, by the names of their folders alone."""
    names = (folder.name for folder in (store / "shards").glob("*"))
    return sorted(int(name) for name in names if name.isdigit() and shard_name(int(name)) == name)
