"""The pretraining tasks: token sequences about images of the embedded world, one function a task.

The mixture is a small version of what a real model sees: captions, lists of names, lists that bind letters to names,
single-level questions with and without the parent's name, dialogues that descend level by level. Several questions in
one prompt are rare. Sequences are token ids, the same ids that ``sekd.prompts`` gives with the ``terse`` wording.

Shape legend: B images, L levels (4), O options (4), T tokens, A target tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sekd.embedded.kingdoms import KINGDOMS, LEVELS, NAMES, VALUES
from tools.pretrain_base import tiny_vlm

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
class Questions:
    """Multiple-choice questions about one level each: levels [B], option tokens [B, O], index of the answer [B]."""

    level: np.ndarray
    options: np.ndarray
    answer: np.ndarray

    def prompt(self) -> np.ndarray:
        """[B, 1 + 2 O]: the level, then letter and name of each option."""
        letters = np.broadcast_to(LETTER, self.options.shape)
        pairs = np.stack([letters, self.options], 2).reshape(len(self.options), -1)
        return np.concatenate([LEVEL[self.level][:, None], pairs], 1)

    def reply(self) -> np.ndarray:
        """[B, 2]: letter and name of the answer."""
        return np.stack([LETTER[self.answer], self.options[np.arange(len(self.answer)), self.answer]], 1)


@dataclass(frozen=True)
class Examples:
    """Labels of a batch of images and one question a level about each.

    Kingdom [B], attribute values [B, L], the path's name tokens [B, L], options [B, L, O], index of the truth [B, L].
    """

    kingdom: np.ndarray
    values: np.ndarray
    names: np.ndarray
    options: np.ndarray
    answer: np.ndarray

    @classmethod
    def of(cls, kingdom: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> "Examples":
        """Options are the true name and three other names of its level and kingdom, shuffled."""
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

    def __getitem__(self, rows: np.ndarray) -> "Examples":
        return Examples(self.kingdom[rows], self.values[rows], self.names[rows], self.options[rows], self.answer[rows])

    def __len__(self) -> int:
        return len(self.kingdom)

    def questions(self, level: int | np.ndarray) -> Questions:
        """The question of one level, or of a level for each image [B]."""
        levels, rows = np.broadcast_to(level, len(self)), np.arange(len(self))
        return Questions(levels, self.options[rows, levels], self.answer[rows, levels])


@dataclass(frozen=True)
class TaskBatch:
    """Sequences of one length: tokens [B, T], positions of the target tokens [A] and their loss weights [A]."""

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def caption(examples: Examples) -> TaskBatch:
    """The kingdom and the four attributes of the image."""
    shown = np.take_along_axis(VALUE[examples.kingdom], examples.values[:, :, None], 2)[:, :, 0]
    reply = np.concatenate([KINGDOM[examples.kingdom][:, None], shown], 1)
    return dialogue([(_tile([ID["describe"]], examples), reply)], name=1.0)


def lineage(examples: Examples) -> TaskBatch:
    """The path of names, coarse to fine, without options."""
    return dialogue([(_tile([ID["lineage"]], examples), examples.names)], name=1.0)


def open_dialogue(examples: Examples) -> TaskBatch:
    """One turn a level without options; the answers to the levels above are in the dialogue."""
    turns = [(_tile([LEVEL[level]], examples), examples.names[:, [level]]) for level in range(len(LEVELS))]
    return dialogue(turns, name=1.0)


def listing(count: int, rng: np.random.Generator, pairs: int = 10) -> TaskBatch:
    """Text only: four lettered names, then the pairs repeated in random order, letter first or name first.

    Without this task the small model learns to bind a letter to its name last.
    """
    names = ALL_NAMES[np.argsort(rng.random((count, len(ALL_NAMES))), 1)[:, :VALUES]]
    letters = np.broadcast_to(LETTER, names.shape)
    rounds = [np.argsort(rng.random(names.shape), 1) for _ in range(-(-pairs // VALUES))]
    order = np.concatenate(rounds, 1)[:, :pairs]
    by_name = rng.random(count) < 0.5
    repeated = np.stack([np.take_along_axis(letters, order, 1), np.take_along_axis(names, order, 1)], 2)
    repeated[by_name] = repeated[by_name][:, :, ::-1]
    verb = np.where(by_name, ID["lineage"], ID["describe"])[:, None]
    given = np.stack([letters, names], 2).reshape(count, -1)
    tokens = np.concatenate([given, verb, repeated.reshape(count, -1)], 1)
    second = given.shape[1] + 2 + 2 * np.arange(pairs)
    return TaskBatch(tokens, second, np.full(pairs, 0.5))


def told(examples: Examples, level: np.ndarray, *, numbered: bool) -> TaskBatch:
    """A single-level question with the parent's name after the options; numbered as in a joint prompt, or not.

    ``level`` [B] is at least 1: the first level has no parent.
    """
    questions = examples.questions(level)
    number = NUMBER[level][:, None][:, :numbered]
    prompt = np.concatenate([number, questions.prompt(), _parent(examples, level)], 1)
    return dialogue([(prompt, np.concatenate([number, questions.reply()], 1))])


def naming(examples: Examples, level: np.ndarray) -> TaskBatch:
    """A single-level question with the parent's name after the options, answered name first, then letter."""
    questions = examples.questions(level)
    prompt = np.concatenate([questions.prompt(), _parent(examples, level), _tile([ID["describe"]], examples)], 1)
    return dialogue([(prompt, questions.reply()[:, ::-1])], name=1.0, letter=1.0)


def single(examples: Examples, level: np.ndarray) -> TaskBatch:
    """A single-level question without context."""
    questions = examples.questions(level)
    return dialogue([(questions.prompt(), questions.reply())])


def conditioned(examples: Examples) -> TaskBatch:
    """One turn a level with options; the questions and answers of the levels above are in the dialogue."""
    levels = [examples.questions(level) for level in range(len(LEVELS))]
    return dialogue([(questions.prompt(), questions.reply()) for questions in levels])


def joint(examples: Examples, levels: Sequence[int] = range(len(LEVELS))) -> TaskBatch:
    """Numbered questions of several levels in one prompt, numbered answers in one reply; all levels by default."""
    prompts, replies = [], []
    for number, level in zip(NUMBER, levels, strict=False):
        questions = examples.questions(level)
        prompts += [_tile([number], examples), questions.prompt()]
        replies += [_tile([number], examples), questions.reply()]
    return dialogue([(np.concatenate(prompts, 1), np.concatenate(replies, 1))])


def dialogue(turns: Sequence[tuple[np.ndarray, np.ndarray]], *, name: float = 0.3, letter: float = 1.5) -> TaskBatch:
    """Chat turns of prompt [B, T] and reply [B, T] about one image each.

    The targets are the replies and their end tokens; letters weigh ``letter``, other tokens ``name``.
    """
    parts: list[np.ndarray] = []
    targets: list[int] = []
    for prompt, reply in turns:
        opening = NEXT if parts else HEAD
        parts += [_tile(opening, prompt), prompt, _tile(REPLY, prompt), reply, _tile(STOP, prompt)]
        end = sum(part.shape[1] for part in parts)
        targets += range(end - reply.shape[1] - 1, end)
    tokens = np.concatenate(parts, 1)
    weights = np.where(np.isin(tokens[0, targets], LETTER), letter, name)
    return TaskBatch(tokens, np.array(targets), weights)


def _parent(examples: Examples, level: np.ndarray) -> np.ndarray:
    """[B, 3]: "lineage", the parent's level and its name; at the first level "lineage" twice and the kingdom."""
    parent, rows = np.maximum(level - 1, 0), np.arange(len(level))
    levels = np.where(level > 0, LEVEL[parent], ID["lineage"])
    names = np.where(level > 0, examples.names[rows, parent], KINGDOM[examples.kingdom])
    return np.stack([np.full(len(level), ID["lineage"]), levels, names], 1)


def _tile(tokens: Sequence[int], batch: Examples | np.ndarray) -> np.ndarray:
    return np.tile(tokens, (len(batch), 1))
