"""Of a pass without labels, only the images whose path is sure enough are trained on."""

import math
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest

from sekd.errors import SekdError
from sekd.store import Store
from stage2_student.config import StudentConfig
from stage2_student.runs import digest
from stage2_student.stored import Reader, Run, SplitView
from stage2_student.training import assemble

SURE, UNSURE = 0.9, 0.2


@pytest.fixture(scope="module")
def found(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same pass as if a descent had found the paths: every third one is sure."""
    layout = replace(store.layout, path_logprob=True)
    copy = Store.create(tmp_path_factory.mktemp("found"), identity=store.identity, plan=store.plan, layout=layout)
    number = -1
    for shard in range(store.plan.n_shards):
        rows, logprobs = store.read_targets(shard), []
        for step in rows["step"].to_pylist():
            number += step == 0
            logprobs.append((step + 1) / 4 * math.log(probability(number)))
        rows = rows.append_column(
            pa.field("path_logprob", pa.float32(), nullable=False), [pa.array(logprobs, pa.float32())]
        )
        copy.write_shard(shard, rows, store.hidden(shard), {})
    return copy


def probability(number: int) -> float:
    return SURE if number % 3 == 0 else UNSURE


def images(part: SplitView) -> list[str]:
    runs = tuple(Run(shard, 0, count) for shard, count in enumerate(part.counts()) if count)
    return [path.image for path in Reader(part, open_shards=1).read(runs)]


def test_sure_paths_alone_are_read_and_held_out_ones_are_all_kept(found: Store) -> None:
    everything = images(SplitView(found))
    assert images(SplitView(found, min_path_probability=0.5)) == everything[::3]
    assert images(SplitView(found, min_path_probability=0.1)) == everything
    assert images(SplitView(found, stride=5, held_out=True, min_path_probability=0.5)) == everything[4::5]


def test_a_run_says_how_many_images_it_keeps(
    configure: Callable[..., StudentConfig], found: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assemble(configure(store=str(found.path), min_path_probability=0.5), found)
    assert "15 of 45 images have a path of probability 0.5 or more" in capsys.readouterr().out


def test_a_threshold_that_makes_no_sense_is_refused(
    configure: Callable[..., StudentConfig], found: Store, store: Store
) -> None:
    with pytest.raises(SekdError, match=r"min_path_probability=0\.95 leaves none of 45 images"):
        assemble(configure(min_path_probability=0.95), found)
    with pytest.raises(SekdError, match="holds no path probabilities"):
        assemble(configure(min_path_probability=0.5), store)
    with pytest.raises(SekdError, match=r"min_path_probability=2\.0: expected a probability"):
        assemble(configure(min_path_probability=2.0), found)


def test_a_run_from_before_the_setting_existed_is_the_same_run() -> None:
    before = {"data": {"name": "demo", "options": 4}, "seed": 0}
    now = {"data": {**before["data"], "questions": "labels", "beam": 3, "stop": 0.0}, "seed": 0}
    assert digest(before) == digest(now | {"min_path_probability": 0.0})
    assert digest(before) != digest(now | {"min_path_probability": 0.5})
    assert digest(before) != digest({**now, "data": {**now["data"], "questions": "descent"}})
