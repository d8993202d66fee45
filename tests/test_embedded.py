"""The embedded world and its model: what is drawn, what is asked, and that the fast path is transformers' own."""

import json

import numpy as np
import pytest
import torch

from sekd.embedded import forward, lessons, tiny_vlm
from sekd.embedded.kingdoms import IN_DOMAIN, KINGDOMS, LEVELS, NAMES, UNSEEN, VALUES
from sekd.embedded.lessons import Scene
from sekd.embedded.muon import Muon, orthogonalise
from sekd.embedded.world import categories, picture, sample, write_world
from sekd.models import ModelConfig, load_processor, load_vlm
from sekd.prompts import Prompter
from sekd.questions import Question

TREES = list(KINGDOMS.values())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig(name="random", path=str(tiny_vlm.save_random(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(3)
    kingdom = np.arange(20) % len(TREES)
    return Scene.of(kingdom, np.concatenate([sample(TREES[index], rng, 1) for index in kingdom]), rng)


def test_siblings_differ_in_name_and_no_word_stands_twice_in_the_world() -> None:
    words = [word for kingdom in TREES for level in kingdom.names for word in level]
    assert len(words) == len(set(words)) == len(TREES) * sum(NAMES)
    for kingdom in TREES:
        for table in kingdom.tables:
            assert all(len(set(row)) == VALUES for row in table)


def test_a_name_alone_does_not_tell_the_attribute_it_stands_for() -> None:
    for kingdom in TREES:
        for table in kingdom.tables[1:]:
            meanings = [{value for row in table for value in np.flatnonzero(row == name)} for name in range(NAMES[1])]
            assert sum(len(values) > 1 for values in meanings) >= NAMES[1] - 2


def test_kept_kingdoms_share_no_name_with_those_distilled_on() -> None:
    assert set(IN_DOMAIN) | set(UNSEEN) == set(KINGDOMS)
    seen = {word for name in IN_DOMAIN for level in KINGDOMS[name].names for word in level}
    unseen = {word for name in UNSEEN for level in KINGDOMS[name].names for word in level}
    assert not seen & unseen


def test_the_same_seed_draws_the_same_picture_and_another_attribute_another() -> None:
    kingdom = KINGDOMS["Moth"]

    def drawn(values: list[int]) -> bytes:
        return picture(kingdom, np.array(values), np.random.default_rng(5)).tobytes()

    assert drawn([0, 1, 2, 3]) == drawn([0, 1, 2, 3])
    for level in range(len(LEVELS)):
        other = [0, 1, 2, 3]
        other[level] = (other[level] + 1) % VALUES
        assert drawn(other) != drawn([0, 1, 2, 3])


def test_the_world_is_written_with_inaturalists_tables_and_folders(tmp_path) -> None:
    write_world(tmp_path, images={"val": {"Fauna": 3, "Moth": 2}})
    table = json.loads((tmp_path / "val.json").read_text())
    assert {"images", "annotations", "categories", "licenses"} <= table.keys()
    by_id = {row["id"]: row for row in table["categories"]}
    assert len(by_id) == len(TREES) * VALUES ** len(LEVELS) == len(categories())
    for image, annotation in zip(table["images"], table["annotations"], strict=True):
        category = by_id[annotation["category_id"]]
        assert (tmp_path / image["file_name"]).is_file()
        assert image["file_name"].split("/")[1] == category["image_dir_name"]
    assert [by_id[row["category_id"]]["kingdom"] for row in table["annotations"]] == ["Fauna"] * 3 + ["Moth"] * 2


def test_lessons_are_the_very_tokens_that_prompts_and_chat_template_give(tiny: ModelConfig, scene: Scene) -> None:
    processor, prompter = load_processor(tiny), Prompter.named("terse")
    tokenizer = processor.tokenizer
    words = {index: token for token, index in lessons.ID.items()}

    def ids(text: str) -> list[int]:
        return tokenizer(text.replace(tiny_vlm.IMAGE, tiny_vlm.IMAGE * tiny_vlm.IMAGE_TOKENS))["input_ids"]

    joint, stepwise = lessons.joint(scene), lessons.conditioned(scene)
    for row in range(len(scene)):
        questions = tuple(
            Question(level + 1, LEVELS[level], tuple(words[token] for token in scene.options[row, level]), None)
            for level in range(len(LEVELS))
        )
        answers = [int(answer) for answer in scene.answer[row]]
        prompt = prompter.render(processor, prompter.joint(questions))
        answer, _ = prompter.joint_answer(questions, answers)
        assert ids(prompt + answer + tiny_vlm.END) == joint.tokens[row].tolist()
        for step in range(len(LEVELS)):
            primed = ids(prompter.render(processor, prompter.conditioned(questions, step, answers[:step])))
            assert primed == stepwise.tokens[row, : len(primed)].tolist()
            assert len(primed) in stepwise.scored  # the next token is the letter
            assert stepwise.tokens[row, len(primed)] in lessons.LETTER


def test_the_batched_forward_pass_equals_transformers(tiny: ModelConfig, scene: Scene) -> None:
    processor, vlm = load_processor(tiny), load_vlm(tiny)
    rng = np.random.default_rng(0)
    images = [picture(TREES[k], values, rng) for k, values in zip(scene.kingdom, scene.values, strict=True)]
    patches = forward.pixels(images, processor)
    tokens = forward.to_tensor(lessons.joint(scene).tokens)
    with torch.inference_mode():
        ours = forward.logits(vlm, forward.decode(vlm, tokens, forward.encode_images(vlm, patches)))
        theirs = vlm(
            input_ids=tokens,
            pixel_values=patches.flatten(0, 1),
            image_grid_thw=torch.tensor([[1, forward.GRID, forward.GRID]] * len(scene)),
            mm_token_type_ids=(tokens == lessons.ID[tiny_vlm.IMAGE]).int(),
        ).logits
        swapped = forward.encode_images(vlm, patches.flip(0))
        wrong = forward.logits(vlm, forward.decode(vlm, tokens, swapped))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
    assert (wrong - theirs).abs().max() > 1e-3


def test_options_hold_the_true_name_once_and_no_name_twice(scene: Scene) -> None:
    chosen = np.take_along_axis(scene.options, scene.answer[:, :, None], 2)[:, :, 0]
    assert (chosen == scene.names).all()
    for options in scene.options.reshape(-1, VALUES):
        assert len(set(options.tolist())) == VALUES


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
