"""Images that do not decode: told before an engine starts, counted, and too many of them stop the pass."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sekd.datasets import load_dataset
from sekd.errors import SekdError
from sekd.inference import schedule
from sekd.stop import Stop
from sekd.store.lock import WHOLE
from sekd.store.verify import verify
from stage1_teacher import look
from stage1_teacher import worker as worker_module
from stage1_teacher.config import Teacher, TeacherConfig
from stage1_teacher.generate import prepare, run
from stage1_teacher.look import looking
from stage1_teacher.progress import Tolerance
from stage1_teacher.teacher_modes import ON_POLICY, TEACHER_MODES

BAD = (1, 5)


@pytest.fixture
def damaged(config: TeacherConfig, tmp_path: Path) -> Iterator[TeacherConfig]:
    """A copy of the world in which two of 18 images are cut off."""
    shutil.copytree(config.data.root, tmp_path / "damaged")
    config = replace(config, data=replace(config.data, root=str(tmp_path / "damaged")))
    dataset = load_dataset(config.data, "train")
    for place in BAD:
        file = dataset.image_path(dataset.examples[place])
        file.write_bytes(file.read_bytes()[:100])
    return config


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1])
def test_too_many_images_that_do_not_decode_stop_the_pass_before_an_engine_starts(
    damaged: TeacherConfig, share: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: Any, **__: Any) -> Any:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(worker_module, "Engine", start)
    with pytest.raises(SekdError, match=r"2 of 18 images cannot be read: .*unreadable_share") as error:
        run(replace(damaged, unreadable_share=share, workers=workers))
    dataset = load_dataset(damaged.data, "train")
    assert all(dataset.examples[place].image.name in str(error.value) for place in BAD)


@pytest.mark.usefixtures("lent")
def test_a_tolerated_share_is_left_out_and_named(damaged: TeacherConfig, capfd: pytest.CaptureFixture[str]) -> None:
    store = run(replace(damaged, unreadable_share=0.12))
    dataset = load_dataset(damaged.data, "train")
    skipped = {name: why for index in range(5) for name, why in store.entry(index).skipped.items()}
    assert list(skipped) == [dataset.examples[place].id for place in BAD]
    assert all(why.startswith("unreadable image: ") for why in skipped.values())
    assert sum(store.entry(index).rows for index in range(5)) == 16 * 4
    assert verify(store) == []
    said = "".join(capfd.readouterr().err.split())
    assert "2imagescannotbereadandareleftout:" in said
    assert all(dataset.examples[place].image.name in said for place in BAD)


@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("paradigm", [*TEACHER_MODES, ON_POLICY])
def test_every_paradigm_leaves_out_what_is_tolerated_and_asks_about_all_other_images(
    paradigm: str, damaged: TeacherConfig
) -> None:
    damaged = replace(damaged, unreadable_share=0.12)
    if paradigm == ON_POLICY:
        damaged = replace(damaged, teacher=Teacher(prefixes=str(run(replace(damaged, paradigm="joint")).path)))
    store = run(replace(damaged, paradigm=paradigm))
    dataset = load_dataset(damaged.data, "train")
    skipped = {name for index in range(5) for name in store.entry(index).skipped}
    assert skipped == {dataset.examples[place].id for place in BAD}
    assert sum(store.entry(index).rows for index in range(5)) == 16 * 4
    assert verify(store) == []


@pytest.mark.usefixtures("lent")
def test_an_on_policy_pass_leaves_out_what_it_has_no_prefixes_of_and_says_why(
    damaged: TeacherConfig, config: TeacherConfig
) -> None:
    """The images were put back after the pass that the prefixes are of."""
    said = run(replace(damaged, unreadable_share=0.12, paradigm="joint"))
    store = run(replace(config, unreadable_share=0.12, paradigm=ON_POLICY, teacher=Teacher(prefixes=str(said.path))))
    skipped = {name: why for index in range(5) for name, why in store.entry(index).skipped.items()}
    dataset = load_dataset(config.data, "train")
    assert list(skipped) == [dataset.examples[place].id for place in BAD]
    assert all(why.startswith("no prefixes: unreadable image: ") for why in skipped.values())


@pytest.mark.usefixtures("lent")
def test_a_complete_store_is_not_made_to_look_at_its_images_again(
    config: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config)
    monkeypatch.setattr(look, "undecodable", lambda *_, **__: pytest.fail("images were opened"))
    run(config)


def test_a_look_goes_on_where_it_was_interrupted_and_looks_again_at_what_was_bad(
    damaged: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, seen = prepare(damaged), []
    tolerance = Tolerance.of(job.store, job.dataset, share=0.12)
    find = look.undecodable
    monkeypatch.setattr(look, "AT_ONCE", 4)  # a shard
    monkeypatch.setattr(look, "undecodable", lambda paths: seen.append(paths) or find(paths))

    def at(shards: list[int]) -> None:
        with Stop() as stop, looking(job.store, job.dataset, shards, tolerance, WHOLE, shown=False, stop=stop):
            pass

    at([0, 1, 2])  # images 1 and 5 are bad: shards 0 and 1
    at([0, 1, 2, 3, 4])
    assert [len(paths) for paths in seen] == [4, 4, 4, 4, 4, 4, 2]
    assert seen[3:5] == seen[:2]
    assert [fault.file for fault in verify(job.store) if fault.shard is None] == []


def test_a_full_disk_is_told_by_the_shard_that_met_it_not_by_the_note_of_the_look(
    config: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    job = prepare(config)
    tolerance = Tolerance.of(job.store, job.dataset, share=0.0)
    monkeypatch.setattr(look, "write_whole", full)
    with (
        pytest.raises(SekdError, match="shard 1 could not be written"),
        Stop() as stop,
        looking(job.store, job.dataset, job.missing, tolerance, WHOLE, shown=False, stop=stop),
    ):
        raise SekdError("shard 1 could not be written")


def test_faults_that_are_found_late_end_the_pass_while_the_engines_start(
    damaged: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, find, starting = prepare(damaged), look.undecodable, threading.Event()
    tolerance = Tolerance.of(job.store, job.dataset, share=0.0)
    monkeypatch.setattr(look, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(look, "undecodable", lambda paths: find(paths) if starting.wait(60) else {})

    def wait(stop: Stop) -> None:
        starting.set()
        for _ in range(600):
            stop.check()
            time.sleep(0.1)

    with (
        Stop() as stop,
        looking(job.store, job.dataset, job.missing, tolerance, WHOLE, shown=False, stop=stop),
        pytest.raises(SekdError, match=r"2 of 18 images cannot be read"),
    ):
        wait(stop)


@pytest.mark.usefixtures("lent")
def test_an_image_that_only_the_decoder_finds_bad_counts_alike(
    config: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, dataset = schedule.read_image, load_dataset(config.data, "train")
    bad = {dataset.image_path(dataset.examples[place]) for place in BAD}

    def decode(path: Path) -> Image.Image:
        if path in bad:
            raise schedule.UnreadableImageError(path, OSError("broken data stream"))
        return read(path)

    monkeypatch.setattr(schedule, "read_image", decode)
    with pytest.raises(
        SekdError, match=r"1 of 18 images cannot be read: .*jpg \(unreadable image: OSError\), .*share=0\.01"
    ):
        run(config)
    store = run(replace(config, unreadable_share=0.12))
    skipped = {name: why for index in range(5) for name, why in store.entry(index).skipped.items()}
    assert skipped == {dataset.examples[place].id: "unreadable image: OSError" for place in BAD}


@pytest.mark.usefixtures("lent")
def test_what_an_interrupted_run_left_out_still_counts(damaged: TeacherConfig) -> None:
    damaged = replace(damaged, unreadable_share=0.12)
    run(replace(damaged, shard="0/2"))
    job = prepare(damaged)
    tolerance = Tolerance.of(job.store, job.dataset, share=0.12)
    assert tolerance.before == 1  # image 1 lies in shard 0, image 5 in shard 1
    tolerance.check(1)
    with pytest.raises(SekdError, match="3 of 18"):
        tolerance.check(2)


@pytest.mark.usefixtures("lent")
def test_a_stored_shard_keeps_what_it_left_out_until_its_folder_is_deleted(
    damaged: TeacherConfig, config: TeacherConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    deleted = "once their folders below shards/ are deleted"
    store = run(replace(damaged, unreadable_share=0.12))
    assert deleted in " ".join(capfd.readouterr().err.split())
    shutil.copytree(config.data.root, damaged.data.root, dirs_exist_ok=True)
    assert prepare(damaged).missing == []
    shutil.rmtree(store.path / "shards" / "00000")
    again = prepare(damaged)
    tolerance = Tolerance.of(again.store, again.dataset, share=0.01)
    with pytest.raises(SekdError, match=f"Stored shards left out 1 of them, and ask again {deleted}"):
        tolerance.check(0)
    store = run(replace(damaged, unreadable_share=0.12))
    assert [len(store.entry(index).skipped) for index in range(5)] == [0, 1, 0, 0, 0]


@pytest.mark.usefixtures("lent")
def test_a_part_of_a_pass_counts_its_own_images_and_skips_alone(damaged: TeacherConfig) -> None:
    """Shards 0, 2 and 4 hold 10 images and the bad image 1, shards 1 and 3 hold 8 and the bad image 5."""
    with pytest.raises(SekdError, match="1 of 10 images cannot be read"):
        run(replace(damaged, shard="0/2", unreadable_share=0.06))
    run(replace(damaged, shard="0/2", unreadable_share=0.12))
    job = prepare(replace(damaged, shard="1/2"))
    tolerance = Tolerance.of(job.store, job.dataset, share=0.13, part=job.part)
    assert (tolerance.before, tolerance.images) == (0, 8)


def test_one_bad_image_is_too_many_where_none_is_tolerated() -> None:
    Tolerance(Path("data"), share=0.0, images=10**6).check(0)
    with pytest.raises(SekdError, match="1 of 1000000"):
        Tolerance(Path("data"), share=0.0, images=10**6).check(1)
