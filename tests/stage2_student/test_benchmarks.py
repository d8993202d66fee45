"""The benchmarks' alternatives do the same work as what they are compared with, and the benchmarks run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import large
from benchmarks.large import TEXT, VISION, measure_large
from benchmarks.loop import HfLoop
from benchmarks.measure import Comparison
from sekd.datasets import DataConfig, load_dataset
from sekd.models import ModelConfig, load_vlm
from sekd.store import Store, as_float32


@pytest.mark.parametrize("cached", [False, True])
def test_the_loop_over_transformers_gives_what_the_store_holds(
    cached: bool, model: ModelConfig, data: DataConfig, store: Store
) -> None:
    dataset = load_dataset(data, "train")
    examples = dataset.examples[: store.plan.shard_size]
    loop = HfLoop(load_vlm(model), model, cached=cached)
    images = loop.images([Image.open(dataset.image_path(example)).convert("RGB") for example in examples])
    steps = loop.ask([dataset.questions(example) for example in examples], images)
    rows = store.read_targets(0).to_pydict()
    answers = [step.answers[place] for place in range(len(examples)) for step in steps]
    assert answers == rows["answer"]
    logprobs = torch.stack([step.logprobs_BV for step in steps], 1).flatten(0, 1)
    kept = torch.tensor(rows["topk_logprobs"])
    torch.testing.assert_close(logprobs.gather(1, torch.tensor(rows["topk_ids"]).long()), kept, atol=1e-4, rtol=1e-4)
    states = torch.stack([step.hidden_BH for step in steps], 1).flatten(0, 1)
    stored = torch.from_numpy(as_float32(store.hidden(0)[:, -1], store.layout.hidden_dtype))
    torch.testing.assert_close(states, stored, atol=1e-4, rtol=2**-8)  # the store's bfloat16


def test_a_ratio_is_taken_round_by_round() -> None:
    found = Comparison("two arms", {"a": [2.0, 9.0, 8.0], "b": [1.0, 3.0, 2.0]}, [("a", "b")]).to_dict()["ratios"]
    assert found == {"a / b": {"median": 3.0, "least": 2.0, "most": 4.0}}


def test_the_step_of_the_large_shape_runs_on_cpu_with_a_narrow_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "SIDE", 56)
    narrow = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
    tower = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2}
    text = TEXT | narrow | {"num_key_value_heads": 1}
    found = measure_large(rounds=1, sizes=(1,), device="cpu", text=text, vision=VISION | tower)
    assert found.seconds["batch 1"][0] > 0


@pytest.mark.slow
def test_the_command_measures_steps_on_a_store_that_the_real_pass_made(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "student", "--rounds", "1", "--images", "24", "0"]
    done = subprocess.run([*command, "--out", str(tmp_path / "out.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    assert [one["title"].split(",")[0] for one in found] == ["student"]
    for one in found:
        assert all(value["median"] > 0 for value in one["ratios"].values())
