"""What a dataset of iNaturalist's full size and its store take: seconds and memory, each beside its limit.

The metadata are generated in the layout of iNaturalist 2021, with its numbers of nodes and images. The image files are
links to one image a species. Memory is the peak of a process of its own, with all that the teacher imports.
"""

import os
import pickle
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.apart import Used, run_apart
from benchmarks.full_size_data import fill_store, write_dataset
from sekd.datasets.config import DataConfig
from sekd.datasets.images import undecodable
from sekd.inference.config import EngineConfig
from sekd.models import ModelConfig
from sekd.store import Store
from sekd.store.verify import verify
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import prepare
from stage2_student.config import StreamConfig
from stage2_student.order import Order
from stage2_student.stored import Reader, SplitView

IMAGES, SHARD = 2_686_843, 512


def plan(root: Path) -> None:
    """The teacher's command up to its first question: read the metadata, make the store, share the examples."""
    config = TeacherConfig(
        DataConfig("full", "inat", str(root), {"train": "train.json"}, skip=1),
        ModelConfig("tiny", "sekd/embedded/base", dtype="float32", wording="terse"),
        EngineConfig(),
        artifacts=str(root / "artifacts"),
    )
    job = prepare(config)
    dataset = job.dataset.shared(root / "columns")
    (root / "dataset").write_bytes(pickle.dumps(dataset))
    dataset.questions(dataset.examples[0])


def ask(root: Path) -> None:
    """A worker's dataset: all questions of every 100th shard."""
    dataset = pickle.loads((root / "dataset").read_bytes())
    dataset.identity()
    for start in range(0, len(dataset.examples), 100 * SHARD):
        for example in dataset.examples[start : start + SHARD]:
            dataset.questions(example)


def first_batch(root: Path) -> None:
    """The student's stream up to the examples of its first shuffled block."""
    store, settings = Store.open(next((root / "large").iterdir())), StreamConfig()
    view = SplitView(store, candidates=True, stride=2687)
    begin = time.perf_counter()
    counts = view.counts()
    print(f"{len(counts)} shards opened in {time.perf_counter() - begin:.2f} s (limit 2)", flush=True)
    begin = time.perf_counter()
    order = Order(counts, 10, settings.open_shards, 8, settings.buffer, seed=0)
    block = next(order.blocks(0))
    read = list(Reader(view, open_shards=settings.open_shards).read(block.runs))
    print(f"first {len(read)} shuffled examples in {time.perf_counter() - begin:.2f} s (limit 5)", flush=True)


def check(root: Path) -> None:
    """``make verify`` of hidden states, and reading the same files alone."""
    path = next((root / "hidden").iterdir())
    files = [file for file in path.rglob("*") if file.is_file()]
    size, cores = sum(file.stat().st_size for file in files) / 1e6, len(os.sched_getaffinity(0))
    for what, job in (
        ("read alone, one core", lambda: [len(file.read_bytes()) for file in files]),
        (f"verified on {cores} cores", lambda: verify(path)),
    ):
        drop_from_cache(files)
        begin = time.perf_counter()
        found = job()
        print(f"{size:.0f} MB {what}: {size / (time.perf_counter() - begin):.0f} MB/s", flush=True)
    assert not found, found  # what verify found: a faulty store is read only in part


def drop_from_cache(files: list[Path]) -> None:
    """Write the files to the disk, and let the next reading come from there."""
    os.sync()
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def child(root: Path, name: str) -> Used:
    """What one of the functions above uses, in a process of its own; "" only imports."""
    call = f"; benchmarks.full_size.{name}(pathlib.Path({str(root)!r}))" if name else ""
    return run_apart([sys.executable, "-c", f"import pathlib, benchmarks.full_size{call}"])


def show_full(images: int = IMAGES) -> None:
    """Print every figure beside its limit."""
    with tempfile.TemporaryDirectory(prefix="sekd-full-") as folder:
        root = Path(folder)
        write_dataset(root, images)
        imports, planned = child(root, ""), child(root, "plan")
        print(f"{images} images, {(root / 'train.json').stat().st_size / 1e9:.2f} GB of metadata", flush=True)
        took = f"{planned.seconds:.0f} s (limit 60), {planned.processor:.0f} s of a core"
        print(f"to the first question, without the engine: {took}, {planned.memory:.2f} GB (limit 2)", flush=True)
        megabytes = 1000 * (child(root, "ask").memory - imports.memory)
        print(f"a worker's dataset: {megabytes:.0f} MB (limit 300)", flush=True)
        examples = pickle.loads((root / "dataset").read_bytes()).examples
        paths = [root / image for image in examples.ids[:20_000].to_pylist()]
        begin = time.perf_counter()
        undecodable(paths)
        print(f"images looked at: {len(paths) / (time.perf_counter() - begin):.0f} a second", flush=True)
        fill_store(root, "large", images, SHARD, 0)
        child(root, "first_batch")
        fill_store(root, "hidden", 256 * 128, 128, 3584)
        child(root, "check")
