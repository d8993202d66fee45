"""Pretraining of the embedded base: its tasks, its fast forward pass, its optimizer, and the shipped model's card."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sekd.embedded import BASE
from sekd.embedded.kingdoms import LEVELS, VALUES
from sekd.embedded.world import picture
from sekd.models import ModelConfig, load_processor, load_vlm
from sekd.prompts import Prompter
from sekd.questions import Question
from tools.pretrain_base import forward, tasks, tiny_vlm
from tools.pretrain_base.model_card import card
from tools.pretrain_base.muon import Muon, orthogonalise
from tools.pretrain_base.probe import probe
from tools.pretrain_base.tasks import Examples
from tools.pretrain_base.train import ROUNDS, Mixture

FACTS = json.loads((BASE / "training.json").read_text())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig(name="random", path=str(tiny_vlm.save_random(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture
def examples() -> Examples:
    rng = np.random.default_rng(3)
    return Examples.of(rng.integers(0, len(tasks.WORLD), 24), rng.integers(0, VALUES, (24, len(LEVELS))), rng)


def _patches(examples: Examples, processor: object) -> torch.Tensor:
    rng = np.random.default_rng(0)
    pairs = zip(examples.kingdom, examples.values, strict=True)
    return forward.pixels([picture(tasks.WORLD[k], values, rng) for k, values in pairs], processor)


def test_the_parents_name_stands_between_the_options_and_the_answer(examples: Examples) -> None:
    level = np.random.default_rng(1).integers(1, len(LEVELS), len(examples))
    rows = np.arange(len(examples))
    told = tasks.told(examples, level, numbered=False)
    place = len(tasks.HEAD) + 1 + 2 * examples.options.shape[2]
    assert (told.tokens[:, place + 1] == tasks.LEVEL[level - 1]).all()
    assert (told.tokens[:, place + 2] == examples.names[rows, level - 1]).all()
    letter, name = told.targets[:2]
    assert (told.tokens[:, letter] == tasks.LETTER[examples.answer[rows, level]]).all()
    assert (told.tokens[:, name] == examples.names[rows, level]).all()


def test_a_number_stands_before_the_question_and_before_its_answer(examples: Examples) -> None:
    level = np.full(len(examples), 2)
    told = tasks.told(examples, level, numbered=True)
    assert (told.tokens[:, len(tasks.HEAD)] == tasks.NUMBER[2]).all()
    assert (told.tokens[:, told.targets[0]] == tasks.NUMBER[2]).all()


def test_naming_gives_the_kingdom_at_the_first_level(examples: Examples) -> None:
    naming = tasks.naming(examples, np.zeros(len(examples), dtype=int))
    place = len(tasks.HEAD) + 1 + 2 * examples.options.shape[2]
    assert (naming.tokens[:, place + 2] == tasks.KINGDOM[examples.kingdom]).all()


def test_options_hold_the_true_name_once_and_no_name_twice(examples: Examples) -> None:
    chosen = np.take_along_axis(examples.options, examples.answer[:, :, None], 2)[:, :, 0]
    assert (chosen == examples.names).all()
    for options in examples.options.reshape(-1, VALUES):
        assert len(set(options.tolist())) == VALUES


def test_tasks_are_the_tokens_that_prompts_and_chat_template_give(tiny: ModelConfig, examples: Examples) -> None:
    processor, prompter = load_processor(tiny), Prompter.named("terse")
    tokenizer = processor.tokenizer
    words = {index: token for token, index in tasks.ID.items()}

    def ids(text: str) -> list[int]:
        return tokenizer(text.replace(tiny_vlm.IMAGE, tiny_vlm.IMAGE * tiny_vlm.IMAGE_TOKENS))["input_ids"]

    joint, stepwise = tasks.joint(examples), tasks.conditioned(examples)
    for row in range(len(examples)):
        questions = tuple(
            Question(level + 1, LEVELS[level], tuple(words[token] for token in examples.options[row, level]), None)
            for level in range(len(LEVELS))
        )
        answers = [int(answer) for answer in examples.answer[row]]
        prompt = prompter.render(processor, prompter.joint(questions))
        answer, _ = prompter.joint_answer(questions, answers)
        assert ids(prompt + answer + tiny_vlm.END) == joint.tokens[row].tolist()
        for step in range(len(LEVELS)):
            forced = ids(prompter.render(processor, prompter.conditioned(questions, step, answers[:step])))
            assert forced == stepwise.tokens[row, : len(forced)].tolist()
            assert len(forced) in stepwise.targets  # the next token is the letter
            assert stepwise.tokens[row, len(forced)] in tasks.LETTER


def test_the_batched_forward_pass_equals_transformers(tiny: ModelConfig, examples: Examples) -> None:
    vlm = load_vlm(tiny)
    patches = _patches(examples, load_processor(tiny))
    tokens = forward.to_tensor(tasks.joint(examples).tokens)
    with torch.inference_mode():
        ours = forward.logits(vlm, forward.decode(vlm, tokens, forward.encode_images(vlm, patches)))
        theirs = vlm(
            input_ids=tokens,
            pixel_values=patches.flatten(0, 1),
            image_grid_thw=torch.tensor([[1, forward.GRID, forward.GRID]] * len(examples)),
            mm_token_type_ids=(tokens == tasks.ID[tiny_vlm.IMAGE]).int(),
        ).logits
        swapped = forward.encode_images(vlm, patches.flip(0))
        wrong = forward.logits(vlm, forward.decode(vlm, tokens, swapped))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
    assert (wrong - theirs).abs().max() > 1e-3


def test_the_probe_finds_the_shipped_base_good_at_steps_and_bad_at_whole_paths(examples: Examples) -> None:
    shipped = ModelConfig(name="tiny", path=str(BASE))
    vlm = load_vlm(shipped, dtype=torch.float32)
    with torch.inference_mode():
        images = forward.encode_images(vlm, _patches(examples, load_processor(shipped)))
    found = probe(vlm, images, examples)
    assert found["conditioned"]["hca"] > 85
    assert found["joint"]["hca"] < 40
    assert found["independent"]["order"] > 85


def test_muon_orthogonalises_and_descends() -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 40), 5))
    assert singular.min() > 0.5
    assert singular.max() < 1.4
    matrix, target = torch.nn.Parameter(torch.zeros(8, 12)), torch.randn(8, 12)
    optimizer = Muon([matrix], lr=0.05, weight_decay=0.0)
    losses = []
    for _ in range(100):
        loss = (matrix - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_the_shipped_base_was_trained_on_the_mixture_in_the_code() -> None:
    assert [each["settings"] for each in FACTS["rounds"]] == [vars(settings) for settings in ROUNDS]
    for each in FACTS["rounds"]:
        assert each["mixture"] == vars(Mixture())
        whole_paths = each["mixture"]["joint"] * (each["settings"]["steps"] - each["settings"]["first_stage"])
        assert whole_paths / each["mixture"]["joint_every"] / each["seen"]["sequences"] < 0.003


def test_the_shipped_card_says_what_was_trained() -> None:
    with safe_open(BASE / "model.safetensors", "pt") as weights:
        parameters = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    assert (BASE / "README.md").read_text() == card(FACTS, parameters)
