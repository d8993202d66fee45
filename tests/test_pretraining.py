"""Pretraining of the embedded base: its tasks, its fast forward pass, its optimizer, and the shipped model's card."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sekd.embedded import BASE
from sekd.embedded.forest import FOREST
from sekd.embedded.kingdoms import DEMO, LEVELS
from sekd.embedded.trees import World
from sekd.embedded.world import WORLDS, picture, sample
from sekd.models import ModelConfig, load_processor, load_vlm
from sekd.prompts import Prompter
from sekd.questions import Question
from tools.pretrain_base import forward, tiny_vlm
from tools.pretrain_base.auxiliary import HEAD, answer_options, auxiliary_losses
from tools.pretrain_base.model_card import card
from tools.pretrain_base.muon import Muon, orthogonalise
from tools.pretrain_base.probe import probe
from tools.pretrain_base.tasks import LabelBatch, Tasks
from tools.pretrain_base.train import MIXTURES, ROUNDS, ImagePool, Mixture, Settings, make_step

RNG = np.random.default_rng(0)
every_world = pytest.mark.parametrize("tasks", WORLDS.values(), ids=WORLDS, indirect=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig(name="random", path=str(tiny_vlm.save_random(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture
def tasks(request: pytest.FixtureRequest) -> Tasks:
    return Tasks(getattr(request, "param", DEMO))


@pytest.fixture
def examples(tasks: Tasks) -> LabelBatch:
    rng = np.random.default_rng(3)
    trees, values = rng.integers(0, len(tasks.trees), 24), np.zeros((24, len(tasks.level)), dtype=int)
    for row, tree in enumerate(trees):
        own = sample(tasks.trees[tree], rng, 1)[0]
        values[row, : len(own)] = own
    return tasks.examples(trees, values, rng)


def _patches(tasks: Tasks, examples: LabelBatch, processor: object) -> torch.Tensor:
    rng = np.random.default_rng(0)
    shown = [(tasks.trees[tree], values) for tree, values in zip(examples.tree, examples.values, strict=True)]
    return forward.pixels([picture(tree, values[: len(tree.branching)], rng) for tree, values in shown], processor)


@every_world
def test_the_parents_name_stands_between_the_options_and_the_answer(tasks: Tasks, examples: LabelBatch) -> None:
    level = np.random.default_rng(1).integers(1, examples.depth)
    rows = np.arange(len(examples))
    told = tasks.told(examples, level, numbered=False)
    place = len(tasks.head) + 1 + 2 * examples.options.shape[2]
    assert (told.tokens[:, place + 1] == tasks.level[level - 1]).all()
    assert (told.tokens[:, place + 2] == examples.names[rows, level - 1]).all()
    letter, name = told.targets[:2]
    assert (told.tokens[:, letter] == tasks.letter[examples.answer[rows, level]]).all()
    assert (told.tokens[:, name] == examples.names[rows, level]).all()


def test_a_number_stands_before_the_question_and_before_its_answer(tasks: Tasks, examples: LabelBatch) -> None:
    level = np.full(len(examples), 2)
    told = tasks.told(examples, level, numbered=True)
    assert (told.tokens[:, len(tasks.head)] == tasks.number[2]).all()
    assert (told.tokens[:, told.targets[0]] == tasks.number[2]).all()


def test_naming_gives_the_kingdom_at_the_first_level(tasks: Tasks, examples: LabelBatch) -> None:
    naming = tasks.naming(examples, np.zeros(len(examples), dtype=int))
    place = len(tasks.head) + 1 + 2 * examples.options.shape[2]
    assert (naming.tokens[:, place + 2] == tasks.tree[examples.tree]).all()


@every_world
def test_options_hold_the_true_name_once_and_no_name_twice(tasks: Tasks, examples: LabelBatch) -> None:
    chosen = np.take_along_axis(examples.options, examples.answer[:, :, None], 2)[:, :, 0]
    for row, depth in enumerate(examples.depth):
        assert (chosen[row, :depth] == examples.names[row, :depth]).all()
        for options in examples.options[row, :depth].tolist():
            assert len(set(options)) == len(options) == 4
            assert min(options) >= 0


def test_the_first_stage_asks_for_captions_and_lineages_of_as_many_images_as_it_is_set_to() -> None:
    pool, mixture = ImagePool(Tasks(FOREST), 100, 1), MIXTURES["forest"]
    settings = Settings(first_stage=1, images=60)
    (first,) = make_step(mixture, settings, pool=pool, step=0, rng=RNG)
    later, _ = make_step(mixture, settings, pool=pool, step=1, rng=RNG)
    assert {task.name for task in first.tasks} == {"caption", "lineage", "listing"}
    assert [len(each.patches) for each in (first, later)] == [60, 24]
    for task in ("caption", "lineage"):
        assert sum(len(each.batch.tokens) for each in first.tasks if each.name == task) == 60
    assert "conditioned" in {task.name for task in later.tasks}


@pytest.mark.parametrize("name", ["naming", "open_dialogue", "joint"])
def test_a_task_gets_as_many_sequences_as_the_mixture_says_even_if_it_has_most(name: str) -> None:
    settings, step = Settings(first_stage=0), 0  # a step with joint replies
    mixture = replace(MIXTURES["demo"], **{name: 64})
    own, _ = make_step(mixture, settings, pool=ImagePool(Tasks(DEMO), 80, 1), step=step, rng=RNG)
    assert sum(len(each.batch.tokens) for each in own.tasks if each.name == name) == 64


def test_a_path_that_ends_early_is_asked_as_deep_as_it_goes() -> None:
    tasks = Tasks(FOREST)
    boat, rng = list(FOREST.trees).index("Boat"), np.random.default_rng(0)
    tree, values = np.full(40, boat), np.zeros((40, len(tasks.level)), dtype=int)
    values[:, : len(tasks.trees[boat].branching)] = sample(tasks.trees[boat], rng, 40)
    examples = tasks.examples(tree, values, rng)
    short, long = examples.by_depth()
    assert {len(tasks.trees[boat].path(values[row, :4])) for row in short} == {2}
    per_turn = len(tasks.next) + 9 + len(tasks.reply) + 2 + len(tasks.stop)
    lengths = [tasks.conditioned(examples[rows]).tokens.shape[1] for rows in (short, long)]
    assert lengths[1] - lengths[0] == 2 * per_turn
    with pytest.raises(AssertionError, match="one depth"):
        tasks.conditioned(examples)


def test_tasks_are_the_tokens_that_prompts_and_chat_template_give(
    tiny: ModelConfig, tasks: Tasks, examples: LabelBatch
) -> None:
    processor, prompter = load_processor(tiny), Prompter.named("terse")
    tokenizer = processor.tokenizer
    words = {index: token for token, index in tasks.ids.items()}

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
            assert stepwise.tokens[row, len(forced)] in tasks.letter


def test_the_batched_forward_pass_equals_transformers(tiny: ModelConfig, tasks: Tasks, examples: LabelBatch) -> None:
    vlm = load_vlm(tiny)
    patches = _patches(tasks, examples, load_processor(tiny))
    tokens = forward.to_tensor(tasks.joint(examples).tokens)
    text = forward.to_tensor(tasks.listing(5, np.random.default_rng(0)).tokens)
    everywhere, some = torch.arange(tokens.shape[1]), torch.tensor([3, 7])

    def decoded(patches: torch.Tensor) -> list[torch.Tensor]:
        sequences = forward.Sequences(tokens, forward.encode_images(vlm, patches), everywhere)
        alone = forward.Sequences(text, None, some)
        return [forward.logits(vlm, hidden) for hidden in forward.decode(vlm, [alone, sequences])]

    with torch.inference_mode():
        listed, ours = decoded(patches)
        theirs = vlm(
            input_ids=tokens,
            pixel_values=patches.flatten(0, 1),
            image_grid_thw=torch.tensor([[1, forward.GRID, forward.GRID]] * len(examples)),
            mm_token_type_ids=(tokens == tasks.ids[tiny_vlm.IMAGE]).int(),
        ).logits
        listed_theirs = vlm(input_ids=text).logits[:, some]
        _, wrong = decoded(patches.flip(0))
    torch.testing.assert_close(listed, listed_theirs, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
    assert (wrong - theirs).abs().max() > 1e-3


def test_of_a_whole_path_reply_the_first_answer_alone_may_be_taught(tasks: Tasks, examples: LabelBatch) -> None:
    whole, first = tasks.joint(examples), tasks.joint(examples, later_answers=0.0)
    assert (whole.tokens == first.tokens).all()
    number, letter, name = first.targets[:-1].reshape(-1, 3).T
    assert np.isin(first.tokens[:, number], tasks.number).all()
    assert np.isin(first.tokens[:, letter], tasks.letter).all()
    assert np.isin(first.tokens[:, name], tasks.names).all()
    per_answer = first.weights[:-1].reshape(-1, 3).tolist()
    assert per_answer == [[0.3, 1.5, 0.3], *[[0.3, 0.0, 0.0]] * (len(LEVELS) - 1)]
    assert first.weights[-1] == whole.weights[-1] > 0  # where the reply ends
    assert len(whole.letters) == len(LEVELS)
    assert first.letters.tolist() == [1]  # the auxiliary losses teach no later answer either


@every_world
def test_a_joint_prompt_may_hold_each_parents_name_after_the_options(tasks: Tasks, examples: LabelBatch) -> None:
    for rows in examples.by_depth():
        asked = examples[rows]
        plain, told = tasks.joint(asked), tasks.joint(asked, told=True)
        per_question, start = 1 + 1 + 2 * asked.options.shape[2], len(tasks.head)
        for level in asked.levels:
            question = plain.tokens[:, start - 3 * max(level - 1, 0) :][:, :per_question]
            assert (told.tokens[:, start : start + per_question] == question).all()
            start += per_question
            if level:
                parent = told.tokens[:, start : start + 3]
                assert (parent[:, 1] == tasks.level[level - 1]).all()
                assert (parent[:, 2] == asked.names[:, level - 1]).all()
                start += 3
        assert (told.tokens[:, start:] == plain.tokens[:, start - 3 * (len(asked.levels) - 1) :]).all()


@every_world
def test_each_letter_before_a_name_points_at_its_option(tasks: Tasks, examples: LabelBatch) -> None:
    for rows in examples.by_depth():
        asked = examples[rows]
        batch = tasks.conditioned(asked)
        at = batch.targets[batch.letters]
        assert len(at) == len(asked.levels)
        found = answer_options(forward.to_tensor(batch.tokens), torch.from_numpy(at)).numpy()
        for level, place in zip(asked.levels, found.T, strict=True):
            start = at[level] - len(tasks.reply) - 8  # four letters and their names stand before the reply
            assert (place == start + 2 * asked.answer[:, level] + 1).all()
            assert (batch.tokens[np.arange(len(asked)), place] == asked.names[:, level]).all()
    assert not len(tasks.listing(5, np.random.default_rng(0)).letters)
    assert not len(tasks.naming(examples, np.zeros(len(examples), dtype=int)).letters)  # the name comes first


def test_the_auxiliary_losses_are_those_of_transformers_hidden_states_and_attention(
    tiny: ModelConfig, tasks: Tasks, examples: LabelBatch
) -> None:
    vlm = load_vlm(tiny)
    vlm.set_attn_implementation("eager")
    patches = _patches(tasks, examples, load_processor(tiny))
    batch = tasks.joint(examples)
    tokens = forward.to_tensor(batch.tokens)
    with torch.inference_mode():
        images = forward.encode_images(vlm, patches)
        given = forward.Sequences(tokens, images, torch.from_numpy(batch.targets - 1))
        loss = auxiliary_losses(vlm, forward.before_last(vlm, [given]), [batch.letters])
        theirs = vlm(
            input_ids=tokens,
            pixel_values=patches.flatten(0, 1),
            image_grid_thw=torch.tensor([[1, forward.GRID, forward.GRID]] * len(examples)),
            mm_token_type_ids=(tokens == tasks.ids[tiny_vlm.IMAGE]).int(),
            output_hidden_states=True,
            output_attentions=True,
        )
        known = vlm.lm_head(vlm.model.language_model.norm(theirs.hidden_states[-2])).log_softmax(-1)
    expected = 0.0
    for row in range(len(examples)):
        for level in range(len(LEVELS)):
            letter = batch.targets[batch.letters[level]]
            option = np.flatnonzero(tokens[row] == examples.names[row, level])[0]
            expected -= known[row, letter - 1, examples.names[row, level]].item()
            expected -= theirs.attentions[-1][row, HEAD, letter - 1, option].log().item()
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_probe_finds_the_shipped_base_good_at_steps_and_bad_at_whole_paths(
    tasks: Tasks, examples: LabelBatch
) -> None:
    shipped = ModelConfig(name="tiny", path=str(BASE))
    vlm = load_vlm(shipped, dtype=torch.float32)
    with torch.inference_mode():
        images = forward.encode_images(vlm, _patches(tasks, examples, load_processor(shipped)))
    found = probe(vlm, images, tasks, examples)
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


@pytest.mark.parametrize(("world", "share"), [(DEMO, 0.003), (FOREST, 0.006)], ids=["demo", "forest"])
def test_each_shipped_base_was_trained_on_the_mixture_in_the_code(world: World, share: float) -> None:
    facts = json.loads((world.base / "training.json").read_text())
    assert [Settings(**each["settings"]) for each in facts["rounds"]] == list(ROUNDS[world.name])
    for each in facts["rounds"]:
        assert Mixture(**each["mixture"]) == MIXTURES[world.name]
        whole_paths = each["mixture"]["joint"] * (each["settings"]["steps"] - each["settings"]["first_stage"])
        assert whole_paths / each["mixture"]["joint_every"] / each["seen"]["sequences"] < share


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_each_shipped_card_says_what_was_trained(world: World) -> None:
    with safe_open(world.base / "model.safetensors", "pt") as weights:
        parameters = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    facts = json.loads((world.base / "training.json").read_text())
    assert (world.base / "README.md").read_text() == card(facts, world, parameters)
    assert sum(file.stat().st_size for file in world.base.iterdir()) < 6_000_000
