"""The method and its controls: what each tells the teacher, what it stores, and that none passes as another."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from teacher_passes import TOPK, Running, settings

from sekd.datasets import Dataset
from sekd.errors import SekdError
from sekd.inference.requests import UnreadableImageError
from sekd.inference.strategies import Subject
from sekd.models import load_processor, load_vlm
from sekd.prompts import Prompter
from sekd.store import Store
from sekd.store.verify import verify
from stage1_teacher import worker as worker_module
from stage1_teacher.config import Teacher, TeacherConfig
from stage1_teacher.generate import prepare, run
from stage1_teacher.teacher_modes import TEACHER_MODES, teacher_mode
from stage1_teacher.worker import TeacherWorker

Passes = dict[str, Store]
PLACE = 3


@pytest.fixture(scope="module")
def passes(world: Path, model: Path, running: Running, tmp_path_factory: pytest.TempPathFactory) -> Passes:
    """A store of each paradigm, all below one folder, the controls last."""
    artifacts, engine = tmp_path_factory.mktemp("paradigms"), running()._engine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "Engine", lambda *_, **__: engine)
        patch.setattr(TeacherWorker, "close", lambda self: None)
        return {paradigm: run(settings(world, model, artifacts, paradigm=paradigm)) for paradigm in TEACHER_MODES}


def rows(store: Store) -> list[dict[str, Any]]:
    return pa.concat_tables(store.read_targets(index) for index in range(store.plan.n_shards)).to_pylist()


def prompts(
    worker: TeacherWorker,
    paradigm: str,
    answer: Callable[[str], int],
    bad: tuple[Path, ...] = (),
    stored: Store | None = None,
) -> list[Any]:
    """(image, prompt) of each request, without engine: ``answer`` chooses an option by prompt."""
    mode = teacher_mode(paradigm, worker._dataset, str(stored.path) if stored else None)
    dataset = worker._dataset
    conversation = mode(worker._strategies, dataset, PLACE, Subject.of(dataset, dataset.examples[PLACE]))
    asked, reply = [], None
    try:
        while True:
            (request,) = conversation.send(reply)
            if request.image in bad:
                (request,) = conversation.throw(UnreadableImageError(Path("bad"), OSError()))
            asked.append((request.image, request.prompt_text))
            assert request.letter_ids is not None
            letter = request.letter_ids[answer(request.prompt_text) % len(request.letter_ids)]
            reply = [type("Result", (), {"token_ids": (letter,)})()]
    except StopIteration:
        return asked


def by_length(prompt: str) -> int:
    """Some answer that depends on the prompt alone."""
    return len(prompt)


def image(dataset: Dataset, place: int) -> Path:
    return dataset.image_path(dataset.examples[place])


def test_each_paradigm_makes_a_whole_store_of_its_own(passes: Passes) -> None:
    assert len({store.fingerprint for store in passes.values()}) == len(TEACHER_MODES)
    for paradigm, store in passes.items():
        assert verify(store) == []
        assert store.paradigm == paradigm
        assert store.identity.get("uses_labels", False) == (paradigm == "truth")
        assert len(rows(store)) == 18 * 4


def test_only_truth_stores_labels_and_it_stores_nothing_else(passes: Passes) -> None:
    for paradigm, store in passes.items():
        labelled = [row["answer"] == row["truth"] for row in rows(store)]
        assert all(labelled) == (paradigm == "truth")
        likeliest = [_likeliest_letter(row, store) == row["answer"] for row in rows(store)]
        assert all(likeliest) == (paradigm != "truth")


def _likeliest_letter(row: dict[str, Any], store: Store) -> int:
    letters = list(store.layout.letter_ids)[: len(row["options"])]
    return next((letters.index(token) for token in row["topk_ids"] if token in letters), row["answer"])


def test_the_first_level_is_the_same_without_a_history_and_the_others_are_not(passes: Passes) -> None:
    told = {paradigm: rows(passes[paradigm]) for paradigm in ("conditioned", "shuffled", "truth")}
    for mine, others in zip(told["conditioned"], zip(told["shuffled"], told["truth"], strict=True), strict=True):
        if mine["step"] == 0:
            assert [row["topk_ids"] for row in others] == [mine["topk_ids"]] * 2
            for row in others:
                assert row["topk_logprobs"] == pytest.approx(mine["topk_logprobs"], rel=1e-4)
    for control in ("shuffled", "truth"):
        differ = [a["topk_ids"] != b["topk_ids"] for a, b in zip(told["conditioned"], told[control], strict=True)]
        assert sum(differ) > len(differ) / 4


def test_a_joint_teachers_targets_are_those_at_the_letters_of_its_whole_reply(
    passes: Passes, worker: TeacherWorker, model: Path
) -> None:
    store, dataset, prompter = passes["joint"], worker._dataset, Prompter.named("terse")
    processor = load_processor(worker._config.model)
    vlm = load_vlm(worker._config.model, dtype=torch.float32)
    stored, hidden = rows(store), np.concatenate([store.hidden(i)[:] for i in range(store.plan.n_shards)])
    for place in range(3):
        questions, path = dataset.questions(dataset.examples[place]), stored[4 * place : 4 * place + 4]
        said, spans = prompter.joint_answer(questions, [row["answer"] for row in path])
        prompt = prompter.render(processor, prompter.joint(questions))
        picture = processor.image_processor.fetch_images(str(image(dataset, place)))
        inputs = processor(text=[prompt + said], images=[picture], return_tensors="pt")
        with torch.no_grad():
            output = vlm(**inputs, output_hidden_states=True)
        counted = [len(processor(text=[prompt + said[:end]], images=[picture])["input_ids"][0]) for _, end in spans]
        for row, state, position in zip(path, hidden[4 * place :], counted, strict=False):
            logprobs = torch.log_softmax(output.logits[0, position - 2].float(), -1)
            assert row["topk_ids"] == logprobs.topk(TOPK).indices.tolist()
            assert row["topk_logprobs"] == pytest.approx(logprobs.topk(TOPK).values.tolist(), rel=1e-4)
            expected = output.hidden_states[2][0, position - 2].numpy()
            assert np.abs(state[0] - expected).max() < 1e-4 * np.abs(expected).max()


def test_shuffled_histories_are_the_teachers_own_answers_about_the_next_image(worker: TeacherWorker) -> None:
    dataset = worker._dataset
    asked = prompts(worker, "shuffled", by_length)
    assert [place for place, _ in asked] == [image(dataset, PLACE + 1)] * 4 + [image(dataset, PLACE)] * 4
    theirs, mine = (dataset.questions(dataset.examples[place]) for place in (PLACE + 1, PLACE))
    chosen = [by_length(prompt) % len(q.options) for (_, prompt), q in zip(asked, theirs, strict=False)]
    for step in range(4):
        expected = Prompter.named("terse").conditioned([*theirs[:step], *mine[step:]], step, chosen)
        assert asked[4 + step][1] == Prompter.named("terse").render(worker._strategies.processor, expected)


def test_a_shuffled_history_skips_an_image_that_cannot_be_read(worker: TeacherWorker) -> None:
    dataset = worker._dataset
    asked = prompts(worker, "shuffled", by_length, bad=(image(dataset, PLACE + 1),))
    assert [place for place, _ in asked] == [image(dataset, PLACE + 2)] * 4 + [image(dataset, PLACE)] * 4


def test_on_policy_is_told_what_the_other_pass_answered_whatever_the_model_says(
    worker: TeacherWorker, passes: Passes
) -> None:
    dataset, said = worker._dataset, passes["joint"]
    questions = dataset.questions(dataset.examples[PLACE])
    answers = [row["answer"] for row in rows(said) if row["sample"] == dataset.examples[PLACE].id]
    for answer in (by_length, lambda prompt: 0):
        for step, (_, prompt) in enumerate(prompts(worker, "on_policy", answer, stored=said)):
            expected = Prompter.named("terse").conditioned(questions, step, answers)
            assert prompt == Prompter.named("terse").render(worker._strategies.processor, expected)


@pytest.mark.usefixtures("lent")
def test_an_on_policy_pass_keeps_the_teachers_answers_and_names_whose_prefixes_they_follow(
    passes: Passes, config: TeacherConfig
) -> None:
    said = passes["joint"]
    asked = replace(config, paradigm="on_policy", teacher=Teacher(prefixes=str(said.path)))
    store = run(asked)
    assert verify(store) == []
    assert store.plan == said.plan
    assert store.identity["prefixes"] == said.fingerprint
    assert all(_likeliest_letter(row, store) == row["answer"] for row in rows(store))
    own = run(replace(asked, teacher=Teacher(prefixes=str(passes["conditioned"].path))))
    assert own.fingerprint != store.fingerprint
    assert [row["answer"] for row in rows(own)] == [row["answer"] for row in rows(passes["conditioned"])]


def test_prefixes_that_do_not_fit_are_refused(
    passes: Passes, config: TeacherConfig, model: Path, world: Path, tmp_path: Path
) -> None:
    said = passes["joint"]
    for paradigm, prefixes in (("on_policy", None), ("conditioned", str(said.path))):
        with pytest.raises(SekdError, match="go together"):
            prepare(replace(config, paradigm=paradigm, teacher=Teacher(prefixes=prefixes)))
    other = replace(config, paradigm="on_policy", teacher=Teacher(prefixes=str(said.path)))
    with pytest.raises(SekdError, match="of other images or questions"):
        prepare(replace(other, data=replace(config.data, seed=99)))
    growing = prepare(settings(world, model, tmp_path, paradigm="joint")).store
    with pytest.raises(SekdError, match="lacks 5 of 5 shards"):
        prepare(replace(other, teacher=Teacher(prefixes=str(growing.path))))


def test_truth_is_told_the_labels_whatever_the_model_says(worker: TeacherWorker) -> None:
    dataset = worker._dataset
    questions = dataset.questions(dataset.examples[PLACE])
    for answer in (by_length, lambda prompt: 0):
        for step, (_, prompt) in enumerate(prompts(worker, "truth", answer)):
            expected = Prompter.named("terse").conditioned(questions, step, [int(q.truth or 0) for q in questions])
            assert prompt == Prompter.named("terse").render(worker._strategies.processor, expected)


def test_truth_without_labels_and_shuffled_with_one_image_are_refused(worker: TeacherWorker) -> None:
    dataset = worker._dataset
    example = dataset.examples[0]
    unknown = replace(example, questions=tuple(replace(q, truth=None) for q in dataset.questions(example)))
    with pytest.raises(SekdError, match="needs the labels of every image"):
        next(TEACHER_MODES["truth"](worker._strategies, dataset, 0, Subject.of(dataset, unknown)))
    alone = replace(dataset, examples=[example])
    with pytest.raises(SekdError, match="needs two"):
        next(TEACHER_MODES["shuffled"](worker._strategies, alone, 0, Subject.of(alone, example)))


def test_a_control_is_never_taken_for_the_method(passes: Passes, config: TeacherConfig) -> None:
    folder = passes["truth"].path.parent
    assert Store.find(folder.parent, folder.name).path == passes["conditioned"].path
    control = prepare(replace(config, paradigm="truth"))
    with pytest.raises(SekdError, match=r"no complete conditioned teacher pass.*\(truth, 0 of 5 shards\)"):
        Store.find(Path(config.artifacts), control.config.data.name)
