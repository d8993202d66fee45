"""Every family of models makes a student: its prompts are whole, its answer positions right, its images kept alike."""

from collections.abc import Sequence
from dataclasses import astuple, replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hf_teacher import store_pass
from peft import PeftModel
from standins import Photos, Standin, write_photos
from standins.photos import RANKS
from student_settings import PLAIN, Configure
from test_training import losses_of, run_of

from sekd.datasets import load_dataset
from sekd.datasets.images import decode
from sekd.errors import SekdError
from sekd.inference.rendering import Rendering
from sekd.models import load_processor, load_vlm
from sekd.prompts import Prompter
from sekd.questions import Question
from stage2_student.config import LossConfig, SoftConfig, StreamConfig, ValidationConfig
from stage2_student.decode import PromptBatch, answer
from stage2_student.encode import Encoder
from stage2_student.merge import merge
from stage2_student.model import Student, seen_once, takes_vision
from stage2_student.stored import TeacherPath
from stage2_student.training import train

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "internvl3", "llava_onevision")
ALSO = ("qwen2_5_vl_tied", "internvl2_5", "llava1_5", "llava1_6")
KINDS = ("odd", "square")
END = {"llava1_5": "</s>", "llava1_6": "</s>"}  # of the assistant's turn; that of all others is "<|im_end|>"
BOS = ("llava1_5", "llava1_6")  # whose tokenizer begins every text with a token
every_family = pytest.mark.parametrize("family", [*FAMILIES, *ALSO])


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    photos = write_photos(tmp_path_factory.mktemp("few"), kinds=KINDS)
    splits = {"train": "photos.json", "val": None, "test": None}
    return replace(photos, data=replace(photos.data, splits=splits, levels=list(RANKS[:4])))


@pytest.fixture(scope="module")
def paths(few: Photos) -> list[TeacherPath]:
    """One example a photo, of one and of three questions: no two rows are of one length."""
    dataset = load_dataset(few.data, "train")
    asked = [(example, dataset.questions(example)[: 1 + 2 * n]) for n, example in enumerate(dataset.examples)]
    return [
        TeacherPath(str(example.image), tuple(questions), tuple(range(len(questions))), None, None)
        for example, questions in asked
    ]


def batch_of(encoder: Encoder, paths: Sequence[TeacherPath]) -> Any:
    return encoder.batch(paths, images=len(paths), all_images=len(paths), world=1)


def rows(batch: Any) -> list[torch.Tensor]:
    """Each row's tokens, without padding."""
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    return [row[real] for row, real in zip(ids, mask, strict=True)]


@every_family
def test_a_row_is_its_own_prompt_and_then_its_answer(
    standin: Standin, family: str, few: Photos, paths: list[TeacherPath]
) -> None:
    model = standin(family)
    encoder, processor, prompter = Encoder(model, few.root), load_processor(model), Prompter.named(model.wording)
    batch = batch_of(encoder, paths)
    mask = batch.inputs["attention_mask"]
    end_id = encoder.tokenizer.convert_tokens_to_ids(END.get(family, "<|im_end|>"))
    assert (mask[:, 1:] <= mask[:, :-1]).all(), "a row is not padded on the right alone"
    for number, (path, row) in enumerate(zip(paths, rows(batch), strict=True)):
        prompt = prompter.render(processor, prompter.joint(path.questions))
        alone = processor(text=[prompt], images=[decode(few.root / path.image)], return_tensors="pt")["input_ids"][0]
        said, letters = prompter.answer_tokens(encoder.tokenizer, path.questions, path.answers)
        assert row.tolist() == [*alone.tolist(), *said, end_id]
        own = batch.answer_positions.rows == number
        assert batch.answer_positions.places[own].tolist() == [len(alone) + letter - 1 for letter in letters]
        text = encoder.tokenizer.decode(row)
        assert all(option in text for question in path.questions for option in question.options)
        assert abs(encoder.length(path) - len(row)) < 100, "the estimate of a row's length is far off"


@every_family
@pytest.mark.parametrize("written", [False, True], ids=["added by the tokenizer", "written by the chat template"])
def test_the_teacher_and_the_student_read_one_beginning_of_the_text_where_the_model_has_one(
    family: str, written: bool, standin: Standin, few: Photos, paths: list[TeacherPath]
) -> None:
    model = standin(family)
    encoder, processor, prompter = Encoder(model, few.root), load_processor(model), Prompter.named(model.wording)
    bos = processor.tokenizer.bos_token
    if written:
        if bos is None:
            pytest.skip("this model has no such token")
        encoder._processor.chat_template = processor.chat_template = f"{bos}{processor.chat_template}"
    own = [processor.tokenizer.bos_token_id] if written or family in BOS else []
    (row, *_) = rows(batch_of(encoder, paths))
    prompt = prompter.render(processor, prompter.joint(paths[0].questions))
    renderer = Mock(get_tokenizer=lambda: processor.tokenizer)
    of_teacher = Rendering(renderer, remembered=1).tokenize(prompt)  # an image is one token yet
    for ids in (row.tolist(), of_teacher):
        assert ids[: len(own)] == own
        assert processor.tokenizer.bos_token_id not in ids[len(own) :]
    assert row.tolist()[:4] == of_teacher[:4]


def test_a_processor_that_pads_where_it_likes_is_refused(
    standin: Standin, few: Photos, paths: list[TeacherPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(standin("internvl3"), few.root)
    ordinary = type(encoder._processor).__call__
    stubborn = lambda self, **options: ordinary(self, **{**options, "padding_side": "left"})  # noqa: E731
    monkeypatch.setattr(type(encoder._processor), "__call__", stubborn)
    with pytest.raises(SekdError, match=r"^model \S+: \w+ does not pad on the right"):
        batch_of(encoder, paths)


@every_family
def test_what_the_tower_computes_once_changes_nothing(
    standin: Standin, family: str, few: Photos, paths: list[TeacherPath]
) -> None:
    """In the batch's prompts and in those about its first image alone."""
    model = standin(family)
    encoder, body = Encoder(model, few.root), load_vlm(model).model
    batch, first = batch_of(encoder, paths).inputs, batch_of(encoder, paths[:1]).inputs
    assert takes_vision(body)
    with torch.no_grad():
        for inputs, shared in zip((batch, first), seen_once(body, batch, first), strict=True):
            assert "pixel_values" not in shared
            real = inputs["attention_mask"].bool()
            own, kept = (body(**each, use_cache=False).last_hidden_state[real] for each in (inputs, shared))
            torch.testing.assert_close(kept, own, atol=1e-4, rtol=1e-4)


def joint_answers(
    prompter: Prompter, encoder: Encoder, questions: Sequence[Question]
) -> dict[tuple[int, ...], list[int]]:
    """Every joint answer there is, by its choices: its tokens with the end of the turn."""
    choices = product(*(range(len(question.options)) for question in questions))
    return {
        chosen: [*prompter.answer_tokens(encoder.tokenizer, questions, chosen)[0], encoder.end_id] for chosen in choices
    }


@every_family
def test_what_is_taught_stands_where_a_free_answer_has_it(
    standin: Standin, family: str, few: Photos, paths: list[TeacherPath]
) -> None:
    """The model answers by its own generation, held to the form of a joint answer; that answer is then taught."""
    model = standin(family)
    encoder, vlm, prompter = Encoder(model, few.root), load_vlm(model), Prompter.named(model.wording)
    prompts = encoder.prompts([few.root / path.image for path in paths], [path.questions for path in paths])
    start = prompts["input_ids"].shape[1]
    known = [joint_answers(prompter, encoder, path.questions) for path in paths]

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        said = ids[start:].tolist()
        whole = known[row].values()
        following = {one[len(said)] for one in whole if one[: len(said)] == said and len(one) > len(said)}
        return sorted(following) or [encoder.end_id]

    vlm.generation_config.repetition_penalty = 1.0
    reply = vlm.generate(
        **prompts,
        max_new_tokens=max(len(one) for answers in known for one in answers.values()),
        do_sample=False,
        prefix_allowed_tokens_fn=allowed,
        pad_token_id=encoder.tokenizer.pad_token_id,
        eos_token_id=encoder.end_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    taught = []
    for path, answers, ids in zip(paths, known, reply.sequences[:, start:].tolist(), strict=True):
        (said,) = [chosen for chosen, one in answers.items() if ids[: len(one)] == one]
        taught.append(replace(path, answers=said))
    batch = batch_of(encoder, taught)
    student = Student(vlm, PLAIN).eval()
    with torch.no_grad():
        logits_NV = student.head(student(batch, with_format=False).last_ND)
    lengths = batch.inputs["attention_mask"].sum(dim=1)
    for row, place, token, logits_V in zip(*astuple(batch.answer_positions), logits_NV, strict=True):
        ids = reply.sequences[row, start:].tolist()
        length = ids.index(encoder.end_id) + 1
        step = int(place + 1 - (lengths[row] - length))
        assert ids[step] == token
        torch.testing.assert_close(logits_V, reply.logits[step][row], atol=2e-3, rtol=2e-3)


def test_greedy_answers_on_the_way_know_no_repetition_penalty(
    standin: Standin, few: Photos, paths: list[TeacherPath]
) -> None:
    """As vLLM answers, though the model's own settings ask for one."""
    model = standin("qwen2_5_vl")
    vlm = load_vlm(model)
    assert vlm.generation_config.repetition_penalty == 1.05
    vlm.generation_config.repetition_penalty = 0.01  # so far from 1 that it shows
    encoder, student, path = Encoder(model, few.root), Student(vlm, PLAIN).eval(), paths[0]
    prompt = encoder.prompts([few.root / path.image], [path.questions])
    (reply,) = answer(student.vlm, encoder.tokenizer, PromptBatch(prompt, [path.questions], 12, encoder.end_id))
    said: list[int] = []
    while len(said) < 12 and not {*said} & {151645, 151643}:
        tokens = torch.cat([prompt["input_ids"], torch.tensor([said], dtype=torch.long)], dim=1)
        types = torch.cat([prompt["mm_token_type_ids"], torch.zeros(1, len(said), dtype=torch.long)], dim=1)
        whole = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "mm_token_type_ids": types}
        with torch.no_grad():
            said.append(int(student.vlm(**{**prompt, **whole}, logits_to_keep=1).logits[0, -1].argmax()))
    assert reply == encoder.tokenizer.decode(said, skip_special_tokens=True)
    vlm.generation_config.repetition_penalty = 0.01
    assert answer(student.vlm, encoder.tokenizer, PromptBatch(prompt, [path.questions], 12, encoder.end_id)) != [reply]


RUNS = [
    ("internvl3", "32-true", {"gradient_checkpointing": True}, {"source": "exact"}),
    ("llava_onevision", "bf16-mixed", {}, {}),
    ("qwen2_5_vl_tied", "bf16-mixed", {"gradient_checkpointing": True}, {"source": "exact"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "precision", "trainer", "soft"), RUNS)
def test_a_student_of_all_losses_is_trained_merged_and_loaded_as_it_is(
    standin: Standin, configure: Configure, few: Photos, tmp_path: Path, family: str, precision: str, trainer, soft
) -> None:
    model = standin(family)
    store = store_pass(tmp_path / "artifacts", model=model, data=few.data, layers=(2, 3))
    config = configure(
        model=model,
        data=few.data,
        loss=LossConfig(soft=SoftConfig(**soft)),
        validation=ValidationConfig(times=0, held_out=0.0, images=1, batch_size=1, split="train"),
        stream=StreamConfig(buffer=4, open_shards=1, workers=1),
    )
    config = replace(
        config,
        optim=replace(config.optim, batch_size=2, epochs=1, warmup_steps=0),
        trainer=replace(config.trainer, precision=precision, **trainer),
    )
    run = run_of(config, store)
    train(config, store, run)
    assert all(0 < float(loss) < 100 for loss in losses_of(run).values())
    merge(run.path)
    encoder = Encoder(model, few.root)
    dataset = load_dataset(few.data, "train")
    asked = encoder.prompts([dataset.image_path(dataset.examples[0])], [dataset.questions(dataset.examples[0])])
    base = load_vlm(model)
    with torch.no_grad():
        before = base(**asked, logits_to_keep=1).logits
        after = PeftModel.from_pretrained(base, str(run.adapter)).eval()(**asked, logits_to_keep=1).logits
        merged = load_vlm(replace(model, path=str(run.path / "merged")))(**asked, logits_to_keep=1).logits
    assert (after - before).abs().max() > 1e-3, "the adapter changes nothing"
    torch.testing.assert_close(merged, after, atol=1e-3, rtol=1e-3)
