"""What a dataset of iNaturalist's full size and its store take: seconds and memory, each beside its limit.

The metadata are generated in the layout of iNaturalist 2021, with its numbers of nodes and images. The image files are
links to one image a species. Memory is the peak of a process of its own, with all that the teacher imports.
"""

import json
import os
import pickle
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import run_apart
from sekd.datasets.config import DataConfig
from sekd.datasets.images import undecodable
from sekd.inference.config import EngineConfig
from sekd.models import ModelConfig
from sekd.store import Layout, Plan, Store, build_rows
from sekd.store import manifest as m
from sekd.store.hidden import encode, write_hidden
from sekd.store.store import write_targets
from sekd.store.verify import verify
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import prepare
from stage2_student.config import StreamConfig
from stage2_student.order import Order
from stage2_student.stored import Reader, SplitView

IMAGES, SHARD = 2_686_843, 512
RANKS = {"kingdom": 3, "phylum": 13, "class": 51, "order": 273, "family": 1103, "genus": 4884, "species": 10_000}
LEVELS = [*RANKS]


def write_dataset(root: Path, images: int) -> None:
    """``train.json``, and the image files in a folder for each species."""
    rng, count = random.Random(0), RANKS["species"]
    categories, folders = [], []
    for number in range(count):
        path = {rank: f"{rank.capitalize()}us{number * size // count:05d}" for rank, size in RANKS.items()}
        categories.append({"id": number, **path, "name": f"{path['genus']} {path['species']}"})
        folders.append(root / "train" / "_".join([f"{number:05d}", *path.values()]))
        folders[-1].mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folders[-1] / "0.jpg")

    def image(number: int) -> dict[str, Any]:
        file = folders[number * 7919 % count] / f"{uuid.UUID(int=rng.getrandbits(128))}.jpg"
        os.link(file.with_name("0.jpg"), file)
        place = {"latitude": rng.random() * 90, "longitude": rng.random() * 180, "location_uncertainty": number % 99}
        more = {"rights_holder": f"photographer {number % 9999}", "date": "2018-07-16 20:42:01+00:00", "license": 0}
        name = file.relative_to(root).as_posix()
        return {"id": number, "width": 500, "height": 375, "file_name": name, **more, **place}

    parts: dict[str, Iterator[dict[str, Any]]] = {
        "images": map(image, range(images)),
        "annotations": ({"id": n, "image_id": n, "category_id": n * 7919 % count} for n in range(images)),
        "categories": iter(categories),
    }
    with (root / "train.json").open("w") as file:
        for start, (key, rows) in zip("{,,", parts.items(), strict=True):
            file.write(f'{start}"{key}": [{json.dumps(next(rows))}')
            file.writelines(f", {json.dumps(row)}" for row in rows)
            file.write("]")
        file.write("}")


def fill(root: Path, name: str, images: int, shard: int, hidden: int) -> None:
    """A store whose shards all hold the same rows, six an image, and hidden states of this size; 0 is none."""
    rng, rows = np.random.default_rng(0), 6 * shard
    layout = Layout(4, [1] if hidden else [], max(hidden, 1), "bfloat16", 99, [1, 2, 3, 4])
    store = Store.create(root / name, identity={}, plan=Plan(images // shard * shard, shard), layout=layout)
    names = [f"train/{row // 6:05d}_a_name_of_usual_length/{row // 6:036d}.jpg" for row in range(rows)]
    steps = [row % 6 for row in range(rows)]
    candidates = {"topk_ids": np.tile([1, 2, 3, 4], (rows, 1)), "tail_logprob": np.full(rows, np.log(0.05))}
    candidates["topk_logprobs"] = np.log(np.tile([0.6, 0.2, 0.1, 0.05], (rows, 1)))
    asked = {"level": [LEVELS[step + 1] for step in steps], "options": [["one", "two", "three", "four"]] * rows}
    numbers = {"step": steps, "n_steps": [6] * rows, "depth": steps, "answer": [0] * rows, "truth": [-1] * rows}
    table = build_rows(layout, {"sample": names, "image": names, **asked, **numbers, **candidates})
    states = encode(rng.standard_normal((rows, 1, hidden), np.float32), layout) if hidden else None
    for index in range(store.plan.n_shards):  # as ``write_shard``, but for its checks and the disk's flush
        (folder := m.shard_folder(store.path, index)).mkdir()
        write_targets(folder / m.TARGETS, table, store.manifest.marks(index))
        if states is not None:
            write_hidden(folder / m.HIDDEN, states, layout, store.manifest.marks(index))
        files = {file: m.file_digest(folder / file) for file in m.files_below(folder)}
        bounds = [index * shard, (index + 1) * shard]
        (folder / m.ENTRY).write_text(m.seal(vars(m.Entry(store.fingerprint, index, bounds, rows, {}, files))))
        m.provenance_file(store.path, index).write_text(m.seal({}))


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
        begin = time.perf_counter()
        job()
        print(f"{size:.0f} MB {what}: {size / (time.perf_counter() - begin):.0f} MB/s", flush=True)


def child(root: Path, name: str) -> tuple[str, float]:
    """Seconds, as text, and peak GB of one of the functions above, in a process of its own; "" only imports."""
    call = f"; benchmarks.full_size.{name}(pathlib.Path({str(root)!r}))" if name else ""
    seconds, used = run_apart([sys.executable, "-c", f"import pathlib, benchmarks.full_size{call}"])
    return f"{seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of a core", used.ru_maxrss / 1e6


def show_full(images: int = IMAGES) -> None:
    """Print every figure beside its limit."""
    with tempfile.TemporaryDirectory(prefix="sekd-full-") as folder:
        root = Path(folder)
        write_dataset(root, images)
        _, imports = child(root, "")
        seconds, peak = child(root, "plan")
        print(f"{images} images, {(root / 'train.json').stat().st_size / 1e9:.2f} GB of metadata", flush=True)
        limits = f"{seconds} (limit 60), {peak:.2f} GB (limit 2)"
        print(f"to the first question, without the engine: {limits}", flush=True)
        seconds, peak = child(root, "ask")
        print(f"a worker's dataset: {1000 * (peak - imports):.0f} MB (limit 300)", flush=True)
        examples = pickle.loads((root / "dataset").read_bytes()).examples
        paths = [root / image for image in examples.ids[:20_000].to_pylist()]
        begin = time.perf_counter()
        undecodable(paths)
        print(f"images looked at: {len(paths) / (time.perf_counter() - begin):.0f} a second", flush=True)
        fill(root, "large", images, SHARD, 0)
        child(root, "first_batch")
        fill(root, "hidden", 256 * 128, 128, 3584)
        child(root, "check")
