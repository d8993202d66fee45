"""The embedded base's mixture is what its card says: whole paths are rare, what is told stands after the options."""

import json

import numpy as np
import pytest

from sekd.embedded import lessons, tiny_vlm
from sekd.embedded.kingdoms import LEVELS
from sekd.embedded.lessons import Scene
from sekd.embedded.pretrain import ROUNDS, Mixture


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(3)
    return Scene.of(rng.integers(0, len(lessons.WORLD), 24), rng.integers(0, 4, (24, len(LEVELS))), rng)


def test_the_name_above_stands_between_the_options_and_the_answer(scene: Scene) -> None:
    level = np.random.default_rng(1).integers(1, len(LEVELS), len(scene))
    rows = np.arange(len(scene))
    told = lessons.told(scene, level, numbered=False)
    place = len(lessons.HEAD) + 1 + 2 * scene.options.shape[2]
    assert (told.tokens[:, place + 1] == lessons.LEVEL[level - 1]).all()
    assert (told.tokens[:, place + 2] == scene.names[rows, level - 1]).all()
    letter, name = told.scored[:2]
    assert (told.tokens[:, letter] == lessons.LETTER[scene.answer[rows, level]]).all()
    assert (told.tokens[:, name] == scene.names[rows, level]).all()


def test_a_number_stands_before_the_question_and_before_its_answer(scene: Scene) -> None:
    level = np.full(len(scene), 2)
    told = lessons.told(scene, level, numbered=True)
    assert (told.tokens[:, len(lessons.HEAD)] == lessons.NUMBER[2]).all()
    assert (told.tokens[:, told.scored[0]] == lessons.NUMBER[2]).all()


def test_naming_tells_the_kingdom_above_the_first_level(scene: Scene) -> None:
    naming = lessons.naming(scene, np.zeros(len(scene), dtype=int))
    place = len(lessons.HEAD) + 1 + 2 * scene.options.shape[2]
    assert (naming.tokens[:, place + 2] == lessons.KINGDOM[scene.kingdom]).all()


def test_the_shipped_base_was_trained_on_the_mixture_in_the_code() -> None:
    facts = json.loads((tiny_vlm.BASE / "training.json").read_text())
    assert [each["settings"] for each in facts["rounds"]] == [vars(settings) for settings in ROUNDS]
    for each in facts["rounds"]:
        assert each["mixture"] == vars(Mixture())
        whole_paths = each["mixture"]["joint"] * (each["settings"]["steps"] - each["settings"]["first_stage"])
        assert whole_paths / each["mixture"]["joint_every"] / each["seen"]["sequences"] < 0.003
