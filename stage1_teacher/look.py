"""The look at every image of a pass: it finds those that do not decode while the engines start."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tqdm import tqdm

from sekd.datasets import Dataset
from sekd.datasets.images import undecodable
from sekd.files import remove, write_whole
from sekd.stop import Stop
from sekd.store import Store
from sekd.store.lock import ShardPart
from sekd.store.manifest import LOOKED, DamagedStoreError, read_sealed, seal, temporary_name
from stage1_teacher.progress import Tolerance, named

FIRST_SECONDS = 2.0  # a dataset that takes no longer is looked at before an engine starts
NOTE_SECONDS = 30.0
AT_ONCE = 4096  # images


@contextmanager
def looking(
    store: Store,
    dataset: Dataset,
    shards: Sequence[int],
    tolerance: Tolerance,
    part: ShardPart,
    *,
    shown: bool,
    stop: Stop,
) -> Iterator[None]:
    """Open the images of the shards in a thread, for the length of the block. Too many faults end the pass by ``stop``.

    What was looked at is noted in the store's provenance. A pass that goes on opens the others, and looks again at
    shards with a fault.

    Raises:
        SekdError: at once if the faults are found at once, else where ``stop`` is checked.
    """
    note = store.path / f"{LOOKED}{part.index}-of-{part.count}.json"
    looked: set[int] = set()
    with suppress(DamagedStoreError):  # there is none
        looked.update(read_sealed(note)["shards"])
    ended = threading.Event()

    def write() -> None:
        with suppress(OSError):  # of a full disk the shard's writer tells; without the note the images are opened again
            write_whole(note, seal({"shards": sorted(looked)}), temporary_name(store.path / "tmp", "looked"))

    def look() -> None:
        bad: list[str] = []
        noted = time.monotonic()
        left = [shard for shard in shards if shard not in looked]
        bar = tqdm(
            total=len(left),
            desc="looking at images",
            unit="shard",
            delay=2,
            leave=False,
            disable=None if shown else True,
        )
        step = max(AT_ONCE // store.plan.shard_size, 1)
        for start in range(0, len(left), step):
            if ended.is_set():
                return
            images = {
                dataset.image_path(dataset.examples[place]): shard
                for shard in left[start : start + step]
                for place in store.plan.examples(shard)
            }
            found = undecodable(list(images))
            looked.update(set(images.values()) - {images[path] for path in found})
            bad += [f"{path} ({why})" for path, why in found.items()]
            if found:
                tolerance.check(len(bad), named(bad, len(bad)))
            bar.update(step)
            if time.monotonic() - noted > NOTE_SECONDS:
                write()
                noted = time.monotonic()
        bar.close()
        if bad:
            left_out = f"{len(bad)} images cannot be read and are left out{named(bad, len(bad))}"
            tqdm.write(f"{dataset.name}: {left_out}", file=sys.stderr)

    def run() -> None:
        try:
            look()
        except Exception as error:
            stop.fail(error)

    thread = threading.Thread(target=run, name="looking", daemon=True)
    thread.start()
    try:
        with stop.at_once():
            thread.join(FIRST_SECONDS)
        stop.check()
        yield
    finally:
        ended.set()
        thread.join()
        write() if any(map(part.takes, store.missing())) else remove(note)
