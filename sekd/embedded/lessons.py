"""What the base model is pretrained on: token sequences about images of the world, one function a kind of lesson.

The mixture is a real model's in small: captions and lists of names, lists that bind letters to names, single-level
questions with and without the name above them, dialogues that go down the levels one by one. Several questions in one
prompt are rare, all levels of a path in one answer rarer still. Sequences are written as token ids, exactly the ids
that ``sekd.prompts`` with the ``terse`` wording and the chat template give; nothing here is used after pretraining.

Shape legend: B images, L levels (4), O options (4), T tokens, A scored tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sekd.embedded import tiny_vlm
from sekd.embedded.kingdoms import KINGDOMS, LEVELS, NAMES, VALUES

ID = tiny_vlm.token_ids()
LETTER = np.array([ID[letter] for letter in tiny_vlm.LETTERS])
NUMBER = np.array([ID[number] for number in tiny_vlm.NUMBERS])
LEVEL = np.array([ID[level] for level in LEVELS])
WORLD = tuple(KINGDOMS.values())
KINGDOM = np.array([ID[kingdom.name] for kingdom in WORLD])
VALUE = np.array([[[ID[word] for word in words] for _, words in kingdom.attributes] for kingdom in WORLD])
NAME = np.full((len(WORLD), len(LEVELS), max(NAMES)), -1)
for row, kingdom in enumerate(WORLD):
    for level, words in enumerate(kingdom.names):
        NAME[row, level, : len(words)] = [ID[word] for word in words]
ALL_NAMES = NAME[NAME >= 0]

IMAGE = [ID[tiny_vlm.IMAGE]] * tiny_vlm.IMAGE_TOKENS
HEAD = [ID[tiny_vlm.TURN], ID["user"], ID[tiny_vlm.VISION_START], *IMAGE, ID[tiny_vlm.VISION_END]]
REPLY = [ID[tiny_vlm.END], ID[tiny_vlm.TURN], ID["assistant"]]
STOP = [ID[tiny_vlm.END]]
NEXT = [ID[tiny_vlm.TURN], ID["user"]]


@dataclass(frozen=True)
class Asked:
    """Multiple-choice questions [B] about one level: the tokens of the options [B, O] and the chosen one [B]."""

    level: np.ndarray
    options: np.ndarray
    answer: np.ndarray

    def tokens(self) -> np.ndarray:
        """[B, 1 + 2 O]: the level, then letter and name of each option."""
        letters = np.broadcast_to(LETTER, self.options.shape)
        pairs = np.stack([letters, self.options], 2).reshape(len(self.options), -1)
        return np.concatenate([LEVEL[self.level][:, None], pairs], 1)

    def reply(self) -> np.ndarray:
        """[B, 2]: letter and name of the chosen option."""
        return np.stack([LETTER[self.answer], self.options[np.arange(len(self.answer)), self.answer]], 1)


@dataclass(frozen=True)
class Scene:
    """A batch of images as the world knows them, and the question that each level asks about each of them.

    Kingdom [B], attribute values [B, L], the path's name tokens [B, L], options [B, L, O] with the true one [B, L].
    """

    kingdom: np.ndarray
    values: np.ndarray
    names: np.ndarray
    options: np.ndarray
    answer: np.ndarray

    @classmethod
    def of(cls, kingdom: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> "Scene":
        """Options are the true name and three other words of its level and kingdom, shuffled."""
        indices = np.zeros_like(values)
        for row, tree in enumerate(WORLD):
            indices[kingdom == row] = tree.name_indices(values[kingdom == row])
        words = NAME[kingdom]
        names = np.take_along_axis(words, indices[:, :, None], 2)[:, :, 0]
        order = rng.random(words.shape)
        order[words < 0] = 2
        np.put_along_axis(order, indices[:, :, None], -1, 2)
        true_first = np.take_along_axis(words, np.argsort(order, 2)[:, :, :VALUES], 2)
        shuffle = np.argsort(rng.random(true_first.shape), 2)
        options = np.take_along_axis(true_first, shuffle, 2)
        return cls(kingdom, values, names, options, np.argmin(shuffle, 2))

    def __getitem__(self, rows: np.ndarray) -> "Scene":
        return Scene(self.kingdom[rows], self.values[rows], self.names[rows], self.options[rows], self.answer[rows])

    def __len__(self) -> int:
        return len(self.kingdom)

    def ask(self, level: int | np.ndarray) -> Asked:
        """The question of one level, or of a level for each image [B]."""
        levels, rows = np.broadcast_to(level, len(self)), np.arange(len(self))
        return Asked(levels, self.options[rows, levels], self.answer[rows, levels])


@dataclass(frozen=True)
class Lesson:
    """Sequences of one length: tokens [B, T]; ``scored`` [A] are the positions learnt, with their weights [A]."""

    tokens: np.ndarray
    scored: np.ndarray
    weights: np.ndarray
    has_image: bool = True


def caption(scene: Scene) -> Lesson:
    """What the image shows: the kingdom and its four attributes."""
    shown = np.take_along_axis(VALUE[scene.kingdom], scene.values[:, :, None], 2)[:, :, 0]
    reply = np.concatenate([KINGDOM[scene.kingdom][:, None], shown], 1)
    return dialogue([(_tile([ID["describe"]], scene), reply)], name=1.0)


def lineage(scene: Scene) -> Lesson:
    """The path of names, coarse to fine, without options."""
    return dialogue([(_tile([ID["lineage"]], scene), scene.names)], name=1.0)


def open_dialogue(scene: Scene) -> Lesson:
    """Every level in turn, the answers above it in the dialogue, without options."""
    turns = [(_tile([LEVEL[level]], scene), scene.names[:, [level]]) for level in range(len(LEVELS))]
    return dialogue(turns, name=1.0)


def listing(count: int, rng: np.random.Generator, pairs: int = 10) -> Lesson:
    """Text only: four lettered names, then the pairs recited in any order, by letter or by name.

    Binding a letter to its name is what a small model learns last without this.
    """
    names = ALL_NAMES[np.argsort(rng.random((count, len(ALL_NAMES))), 1)[:, :VALUES]]
    letters = np.broadcast_to(LETTER, names.shape)
    rounds = [np.argsort(rng.random(names.shape), 1) for _ in range(-(-pairs // VALUES))]
    order = np.concatenate(rounds, 1)[:, :pairs]
    by_name = rng.random(count) < 0.5
    recited = np.stack([np.take_along_axis(letters, order, 1), np.take_along_axis(names, order, 1)], 2)
    recited[by_name] = recited[by_name][:, :, ::-1]
    verb = np.where(by_name, ID["lineage"], ID["describe"])[:, None]
    given = np.stack([letters, names], 2).reshape(count, -1)
    tokens = np.concatenate([given, verb, recited.reshape(count, -1)], 1)
    second = given.shape[1] + 2 + 2 * np.arange(pairs)
    return Lesson(tokens, second, np.full(pairs, 0.5), has_image=False)


def told(scene: Scene, level: np.ndarray, *, numbered: bool) -> Lesson:
    """A single question and the name above it in the tree, which stands after the options; with a number or without.

    ``level`` [B] is below the first: nothing is asked about above that.
    """
    asked = scene.ask(level)
    number = NUMBER[level][:, None][:, :numbered]
    prompt = np.concatenate([number, asked.tokens(), _above(scene, level)], 1)
    return dialogue([(prompt, np.concatenate([number, asked.reply()], 1))])


def naming(scene: Scene, level: np.ndarray) -> Lesson:
    """The same of any level, answered the other way round: the name, then its letter."""
    asked = scene.ask(level)
    prompt = np.concatenate([asked.tokens(), _above(scene, level), _tile([ID["describe"]], scene)], 1)
    return dialogue([(prompt, asked.reply()[:, ::-1])], name=1.0, letter=1.0)


def single(scene: Scene, level: np.ndarray) -> Lesson:
    """One level's question without context."""
    asked = scene.ask(level)
    return dialogue([(asked.tokens(), asked.reply())])


def conditioned(scene: Scene) -> Lesson:
    """Every level's question in turn, the questions and answers above it in the dialogue."""
    asked = [scene.ask(level) for level in range(len(LEVELS))]
    return dialogue([(question.tokens(), question.reply()) for question in asked])


def joint(scene: Scene, levels: Sequence[int] = range(len(LEVELS))) -> Lesson:
    """Several levels numbered in one prompt and answered in one reply; all of the path by default."""
    return together([scene.ask(level) for level in levels])


def together(asked: Sequence[Asked]) -> Lesson:
    """Numbered questions in one prompt and their numbered answers in one reply."""
    numbers = [np.full((len(asked[0].answer), 1), number) for number in NUMBER[: len(asked)]]
    questions = [part for number, q in zip(numbers, asked, strict=True) for part in (number, q.tokens())]
    answers = [part for number, q in zip(numbers, asked, strict=True) for part in (number, q.reply())]
    return dialogue([(np.concatenate(questions, 1), np.concatenate(answers, 1))])


def dialogue(turns: Sequence[tuple[np.ndarray, np.ndarray]], *, name: float = 0.3, letter: float = 1.5) -> Lesson:
    """Chat turns of prompt [B, T] and reply [B, T] about one image each.

    Replies and their ends are scored; letters weigh ``letter``, other tokens ``name``.
    """
    parts: list[np.ndarray] = []
    scored: list[int] = []
    for prompt, reply in turns:
        opening = NEXT if parts else HEAD
        parts += [_tile(opening, prompt), prompt, _tile(REPLY, prompt), reply, _tile(STOP, prompt)]
        end = sum(part.shape[1] for part in parts)
        scored += range(end - reply.shape[1] - 1, end)
    tokens = np.concatenate(parts, 1)
    weights = np.where(np.isin(tokens[0, scored], LETTER), letter, name)
    return Lesson(tokens, np.array(scored), weights)


def _above(scene: Scene, level: np.ndarray) -> np.ndarray:
    """[B, 3]: "lineage", the level above and its name; above the first level "lineage" again and the kingdom."""
    parent, rows = np.maximum(level - 1, 0), np.arange(len(level))
    levels = np.where(level > 0, LEVEL[parent], ID["lineage"])
    names = np.where(level > 0, scene.names[rows, parent], KINGDOM[scene.kingdom])
    return np.stack([np.full(len(level), ID["lineage"]), levels, names], 1)


def _tile(tokens: list[int], batch: Scene | np.ndarray) -> np.ndarray:
    return np.tile(tokens, (len(batch), 1))
