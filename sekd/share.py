"""Share a student or a teacher's pass: ``python -m sekd.share push runs/demo WHERE`` and ``pull WHERE``.

WHERE is a hub repository (``owner/name`` or ``hf://…``), a tar file, a folder, or any URL of fsspec (``s3://…``).
``sekd.json`` lists every file with its size and SHA-256, and is written last: a place without it is not whole. What is
pulled is checked, kept under a temporary name until all of it is there, and renamed once. Nothing in it is executed.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sekd.cards import dataset_card, model_card
from sekd.errors import SekdError, exit_on_error
from sekd.files import atomic, remove, sync, sync_tree
from sekd.places import LIST, Content, already_there, digest, find, one_sentence, progress, refuse_outside, send, url_of
from sekd.recent import CONFIG, RUN_FILE, read_settings, run_folder
from sekd.store import Store
from sekd.store import manifest as m
from sekd.store.verify import verify

CARD = "README.md"
STUDENT, STORE = "student", "store"
RUN_FILES = (CONFIG, "metrics.json", RUN_FILE)  # sent below run/; beside them are the adapter's files
SUFFIXES = {".json", ".md", ".png", ".safetensors", ".yaml"}  # of a student's files: numbers, text and plots


@dataclass(frozen=True)
class Parcel:
    """What is sent: ``name`` says where it belongs, ``contents`` holds its files, the list last."""

    kind: str
    name: str
    contents: dict[str, Content]
    digests: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, kind: str, name: str, contents: Mapping[str, Content], known: Mapping[str, dict[str, Any]]) -> "Parcel":
        """With the list of the files, whose digests are computed where they are not known."""
        digests = {each: known.get(each) or digest(content) for each, content in contents.items()}
        listing = m.seal({"kind": kind, "name": name, "files": digests}).encode()
        _read_listing(listing, name)  # what cannot be pulled is not sent
        return cls(kind, name, {**contents, LIST: listing}, {**digests, LIST: digest(listing)})


def parcel(what: Path, licence: str | None = None) -> Parcel:
    """The student or store in a folder, with its card; a ``SekdError`` where there is none, or it is not whole."""
    what = what.resolve()
    if (what / m.MANIFEST).is_file():
        return _store(what, licence)
    training = what.parent if what.name == "adapter" else what
    needed = ("adapter/adapter_config.json", *RUN_FILES[:2])
    if missing := [name for name in needed if not (training / name).is_file()]:
        raise SekdError(
            f"{what} lacks {', '.join(missing)}: expected a finished student (runs/<name>) or a store "
            "(artifacts/<dataset>/<fingerprint>)"
        )
    text, plots = model_card(training, licence)
    contents: dict[str, Content] = {
        **{name: training / "adapter" / name for name in m.files_below(training / "adapter")},
        **{f"run/{name}": training / name for name in RUN_FILES if (training / name).is_file()},
        **{f"plots/{name}": plot for name, plot in plots.items()},
        CARD: text.encode(),
    }
    return Parcel.of(STUDENT, read_settings(training)["name"], contents, {})


def _store(path: Path, licence: str | None) -> Parcel:
    if faults := verify(path, progress=sys.stderr.isatty()):
        raise SekdError(f"{path} is not whole, and only whole stores are sent: {len(faults)} faults, first {faults[0]}")
    store = Store.open(path)
    contents: dict[str, Content] = {
        **{name: path / name for name in m.files_below(path) if not name.startswith(("tmp/", "locks/"))},
        CARD: dataset_card(store, licence).encode(),
    }
    known = {
        f"shards/{m.shard_name(i)}/{name}": each for i in m.listed(path) for name, each in store.entry(i).files.items()
    }
    return Parcel.of(STORE, f"{path.parent.name}/{store.fingerprint}", contents, known)


def push(what: Path, where: str, *, replace: bool = False, public: bool = False, licence: str | None = None) -> None:
    """Send a student or store, without the files that are there already.

    Args:
        replace: send every file, also over other content.
        public: a hub repository that is made for it can be seen by everyone.

    Raises:
        SekdError: there is nothing whole to send, WHERE holds other content, or it cannot be written.
    """
    sent = parcel(what, licence)
    with one_sentence(where):
        url = url_of(where, data=sent.kind == STORE)
        there = set() if replace else already_there(url, sent.digests)
        new = {name: content for name, content in sent.contents.items() if name not in there}
        if new:
            sizes = {name: sent.digests[name]["bytes"] for name in new}
            send(url, new, sizes, f"{sent.kind} {sent.name}", public=public)
    print(f"{where}: {sent.kind} {sent.name}, {len(new)} files sent, {len(there)} were there already")


def pull(where: str, to: Path | None = None) -> Path:
    """Fetch what ``push`` sent, into ``to`` or where it belongs: runs/<name> or artifacts/<dataset>/<fingerprint>.

    Files of an interrupted pull are not fetched again.

    Raises:
        SekdError: WHERE is not whole, a byte differs from its checksum, or the folder holds other content.
    """
    with one_sentence(where):
        fs, root, text = find(where)
        listing = _read_listing(text, where)
        kind, name, digests = listing["kind"], listing["name"], listing["files"]
        places = {file: place for file in digests if (place := _place(kind, file))}
        target = to or Path("runs" if kind == STUDENT else "artifacts", name)
        if target.exists():
            if all((target / p).is_file() and digest(target / p) == digests[file] for file, p in places.items()):
                print(f"{target} holds this {kind} already")
                return target
            raise SekdError(f"{target} holds other content than {where}: move it away, or name a folder by --to")
        arriving = target.parent / f".pull-{hashlib.sha256(text).hexdigest()[:16]}"
        arriving.mkdir(parents=True, exist_ok=True)
        parts = {file: arriving / str(i) for i, file in enumerate(places)}  # which no command takes for a run or store
        for file in progress({file: digests[file]["bytes"] for file in places}, str(target)):
            if not parts[file].exists() or digest(parts[file]) != digests[file]:
                with atomic(parts[file]) as partial:
                    fs.get_file(root + file, str(partial))
                    if digest(partial) != digests[file]:
                        raise SekdError(f"{where}: {file} arrived with other bytes than {LIST} says: pull again")
        whole = arriving / "whole"
        remove(whole)
        for file, place in places.items():
            (whole / place).parent.mkdir(parents=True, exist_ok=True)
            parts[file].rename(whole / place)
        if kind == STORE and (fault := _store_fault(whole, PurePosixPath(name).name)):
            remove(arriving)
            raise SekdError(f"{where} holds no whole store: {fault}")
        sync_tree(whole)
        whole.rename(target)
        sync(target.parent)
        remove(arriving)
    print(f"{target}: {kind} from {where}, {len(places)} files, every byte checked")
    return target


def _store_fault(path: Path, fingerprint: str) -> str | None:
    if faults := verify(path, progress=sys.stderr.isatty()):
        return str(faults[0])
    found = Store.open(path).fingerprint
    return None if found == fingerprint else f"its fingerprint is {found}, {LIST} says {fingerprint}"


def _place(kind: str, name: str) -> str | None:
    """A file's place in the folder that it is pulled into; None for a store's card, which is no part of the store."""
    if kind == STORE:
        return None if name == CARD else name
    return name.removeprefix("run/") if name.startswith("run/") else f"adapter/{name}"


def _read_listing(text: bytes, where: str) -> dict[str, Any]:
    """The list of files; a ``SekdError`` where it was changed, or names what is outside its folder or may be code."""
    listing = m.unseal(text)
    if listing is None or listing.get("kind") not in (STUDENT, STORE):
        raise SekdError(f"{where}: {LIST} is damaged or of another version; push again")
    refuse_outside([listing["name"], *listing["files"]], where)
    others = sorted(name for name in listing["files"] if PurePosixPath(name).suffix not in SUFFIXES)
    if listing["kind"] == STUDENT and others:
        raise SekdError(f"{where} holds {others[0]}: a student's files end in {', '.join(sorted(SUFFIXES))}")
    return listing


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.share", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sending = commands.add_parser("push", help="send a student or a store")
    sending.add_argument("what", nargs="?", type=Path, help="runs/<name> or artifacts/<dataset>/<fingerprint>")
    sending.add_argument("--replace", action="store_true", help="send every file, also over other content")
    sending.add_argument("--public", action="store_true", help="a hub repository that is made can be seen by everyone")
    sending.add_argument("--licence", help="as hubs name it; by default a student's is that of its base, if known here")
    fetching = commands.add_parser("pull", help="fetch what push sent")
    fetching.add_argument("--to", type=Path, help="the folder to make, instead of the one where it belongs")
    for command in (sending, fetching):
        command.add_argument("where", help="owner/name, hf://…, s3://…, any fsspec URL, a folder, or a .tar file")
    given = parser.parse_args()
    with exit_on_error():
        if given.command == "pull":
            pull(given.where, given.to)
        else:
            push(run_folder(given.what), given.where, replace=given.replace, public=given.public, licence=given.licence)


if __name__ == "__main__":
    main()
