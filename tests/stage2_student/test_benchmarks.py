"""What the benchmarks compare with does the same work: a slow or a wrong alternative would prove nothing."""

import pytest
import torch

from benchmarks.online import OnlineTeacher
from sekd.datasets import DataConfig, load_dataset
from sekd.inference.schedule import read_image
from sekd.models import ModelConfig, load_vlm
from sekd.store import Store


@pytest.mark.parametrize("cached", [False, True])
def test_the_teacher_in_the_loop_says_what_the_store_holds(
    cached: bool, model: ModelConfig, data: DataConfig, store: Store
) -> None:
    dataset = load_dataset(data, "train")
    examples = dataset.examples[: store.plan.shard_size]
    teacher = OnlineTeacher(load_vlm(model), model, cached=cached)
    images = teacher.images([read_image(dataset.image_path(example)) for example in examples])
    steps = teacher.ask([dataset.questions(example) for example in examples], images)
    rows = store.read_targets(0).to_pydict()
    said = [step.answers[place] for place in range(len(examples)) for step in steps]
    assert said == rows["answer"]
    logprobs = torch.stack([step.logprobs_BV for step in steps], 1).flatten(0, 1)
    kept = torch.tensor(rows["topk_logprobs"])
    torch.testing.assert_close(logprobs.gather(1, torch.tensor(rows["topk_ids"]).long()), kept, atol=1e-4, rtol=1e-4)
