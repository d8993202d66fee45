"""The pretraining tasks: token sequences about images of an embedded world, one method a task.

The mixture is a small version of what a real model sees: captions, lists of names, lists that bind letters to names,
single-level questions with and without the parent's name, dialogues that descend level by level. Several questions in
one prompt are rare, or each has its parent's name. Sequences are token ids, the same ids that ``sekd.prompts`` gives
with the ``terse`` wording.

Shape legend: B images, L levels of the deepest tree, O options (4), T tokens, A target tokens.
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass, fields, replace

import numpy as np

from sekd.embedded.trees import World
from tools.pretrain_base import tiny_vlm

OPTIONS = 4  # a question


@dataclass(frozen=True)
class Questions:
    """Multiple-choice questions about one level each: levels [B], option tokens [B, O], index of the answer [B]."""

    level: np.ndarray
    options: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True)
class LabelBatch:
    """Labels of a batch of images and one question a level about each.

    Index of the tree [B], attribute values [B, L], levels of the path [B], the path's name tokens [B, L], options
    [B, L, O], index of the truth [B, L]. What is below the path's end has no meaning.
    """

    tree: np.ndarray
    values: np.ndarray
    depth: np.ndarray
    names: np.ndarray
    options: np.ndarray
    answer: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "LabelBatch":
        return LabelBatch(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.tree)

    def questions(self, level: int | np.ndarray) -> Questions:
        """The question of one level, or of a level for each image [B]."""
        levels, rows = np.broadcast_to(level, len(self)), np.arange(len(self))
        return Questions(levels, self.options[rows, levels], self.answer[rows, levels])

    @property
    def levels(self) -> range:
        """The levels of every path, where all have as many."""
        assert len(set(self.depth.tolist())) == 1, "paths of one depth"
        return range(self.depth[0])

    def by_depth(self) -> list[np.ndarray]:
        """Rows whose paths have as many levels, from short paths to long ones."""
        return [np.flatnonzero(self.depth == depth) for depth in np.unique(self.depth)]


@dataclass(frozen=True)
class TaskBatch:
    """Sequences of one length: tokens [B, T], positions of the target tokens [A] and their loss weights [A].

    ``letters`` [C] says which targets are letters whose names follow.
    """

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    letters: np.ndarray


class Tasks:
    """Makes the sequences of every task about images of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ids = ids = tiny_vlm.token_ids(world)
        self.letter = np.array([ids[letter] for letter in tiny_vlm.LETTERS])
        self.number = np.array([ids[number] for number in tiny_vlm.numbers(world)])
        self.level = np.array([ids[level] for level in world.levels])
        self.trees = tuple(world.trees.values())
        self.tree = np.array([ids[tree.name] for tree in self.trees])
        depth = len(world.levels)
        self.value = np.full((len(self.trees), depth, max(max(tree.branching) for tree in self.trees)), -1)
        self.name = np.full((len(self.trees), depth, max(max(map(len, tree.names)) for tree in self.trees)), -1)
        for row, tree in enumerate(self.trees):
            for level, ((_, values), names) in enumerate(zip(tree.attributes, tree.names, strict=True)):
                self.value[row, level, : len(values)] = [ids[value] for value in values]
                self.name[row, level, : len(names)] = [ids[name] for name in names]
        self.names = self.name[self.name >= 0]  # all
        image = [ids[tiny_vlm.IMAGE]] * tiny_vlm.IMAGE_TOKENS
        self.head = [ids[tiny_vlm.TURN], ids["user"], ids[tiny_vlm.VISION_START], *image, ids[tiny_vlm.VISION_END]]
        self.reply = [ids[tiny_vlm.END], ids[tiny_vlm.TURN], ids["assistant"]]
        self.stop = [ids[tiny_vlm.END]]
        self.next = [ids[tiny_vlm.TURN], ids["user"]]

    def examples(self, tree: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> LabelBatch:
        """Options are the true name and three other names of its level and tree, shuffled.

        Args:
            tree: index of each image's tree [B].
            values: attribute values [B, L].
        """
        indices, depth = np.zeros_like(values), np.zeros(len(values), dtype=int)
        for row, each in enumerate(self.trees):
            here = tree == row
            own = values[here, : len(each.attributes)]
            indices[here, : len(each.attributes)] = each.name_indices(own)
            depth[here] = each.depths(own)
        words = self.name[tree]
        names = np.take_along_axis(words, indices[:, :, None], 2)[:, :, 0]
        order = rng.random(words.shape)
        order[words < 0] = 2
        np.put_along_axis(order, indices[:, :, None], -1, 2)
        true_first = np.take_along_axis(words, np.argsort(order, 2)[:, :, :OPTIONS], 2)
        shuffle = np.argsort(rng.random(true_first.shape), 2)
        options = np.take_along_axis(true_first, shuffle, 2)
        return LabelBatch(tree, values, depth, names, options, np.argmin(shuffle, 2))

    def ask(self, questions: Questions) -> np.ndarray:
        """[B, 1 + 2 O]: the level, then letter and name of each option."""
        letters = np.broadcast_to(self.letter, questions.options.shape)
        pairs = np.stack([letters, questions.options], 2).reshape(len(questions.options), -1)
        return np.concatenate([self.level[questions.level][:, None], pairs], 1)

    def answer(self, questions: Questions) -> np.ndarray:
        """[B, 2]: letter and name of the answer."""
        names = questions.options[np.arange(len(questions.answer)), questions.answer]
        return np.stack([self.letter[questions.answer], names], 1)

    def caption(self, examples: LabelBatch) -> TaskBatch:
        """The tree and the attributes of the image."""
        shown = np.take_along_axis(self.value[examples.tree], examples.values[:, :, None], 2)[:, examples.levels, 0]
        reply = np.concatenate([self.tree[examples.tree][:, None], shown], 1)
        return self.dialogue([(tile([self.ids["describe"]], examples), reply)], name=1.0)

    def lineage(self, examples: LabelBatch) -> TaskBatch:
        """The path of names, coarse to fine, without options."""
        return self.dialogue([(tile([self.ids["lineage"]], examples), examples.names[:, examples.levels])], name=1.0)

    def open_dialogue(self, examples: LabelBatch) -> TaskBatch:
        """One turn a level without options; the answers to the levels above are in the dialogue."""
        turns = [(tile([self.level[level]], examples), examples.names[:, [level]]) for level in examples.levels]
        return self.dialogue(turns, name=1.0)

    def listing(self, count: int, rng: np.random.Generator, pairs: int = 10) -> TaskBatch:
        """Text only: four lettered names, then the pairs repeated in random order, letter first or name first.

        Without this task the small model learns to bind a letter to its name last.
        """
        names = self.names[np.argsort(rng.random((count, len(self.names))), 1)[:, :OPTIONS]]
        letters = np.broadcast_to(self.letter, names.shape)
        rounds = [np.argsort(rng.random(names.shape), 1) for _ in range(-(-pairs // OPTIONS))]
        order = np.concatenate(rounds, 1)[:, :pairs]
        by_name = rng.random(count) < 0.5
        repeated = np.stack([np.take_along_axis(letters, order, 1), np.take_along_axis(names, order, 1)], 2)
        repeated[by_name] = repeated[by_name][:, :, ::-1]
        verb = np.where(by_name, self.ids["lineage"], self.ids["describe"])[:, None]
        given = np.stack([letters, names], 2).reshape(count, -1)
        tokens = np.concatenate([given, verb, repeated.reshape(count, -1)], 1)
        second = given.shape[1] + 2 + 2 * np.arange(pairs)
        return TaskBatch(tokens, second, np.full(pairs, 0.5), np.array([], dtype=int))

    def told(self, examples: LabelBatch, level: np.ndarray, *, numbered: bool) -> TaskBatch:
        """A single-level question with the parent's name after the options; numbered as in a joint prompt, or not.

        ``level`` [B] is at least 1: the first level has no parent.
        """
        questions = examples.questions(level)
        number = self.number[level][:, None][:, :numbered]
        prompt = np.concatenate([number, self.ask(questions), self._parent(examples, level)], 1)
        return self.dialogue([(prompt, np.concatenate([number, self.answer(questions)], 1))])

    def naming(self, examples: LabelBatch, level: np.ndarray) -> TaskBatch:
        """A single-level question with the parent's name after the options, answered name first, then letter."""
        questions = examples.questions(level)
        parts = [self.ask(questions), self._parent(examples, level), tile([self.ids["describe"]], examples)]
        return self.dialogue([(np.concatenate(parts, 1), self.answer(questions)[:, ::-1])], name=1.0, letter=1.0)

    def single(self, examples: LabelBatch, level: np.ndarray) -> TaskBatch:
        """A single-level question without context."""
        questions = examples.questions(level)
        return self.dialogue([(self.ask(questions), self.answer(questions))])

    def conditioned(self, examples: LabelBatch) -> TaskBatch:
        """One turn a level with options; the questions and answers of the levels above are in the dialogue."""
        levels = [examples.questions(level) for level in examples.levels]
        return self.dialogue([(self.ask(questions), self.answer(questions)) for questions in levels])

    def joint(
        self,
        examples: LabelBatch,
        levels: Sequence[int] | None = None,
        *,
        later_answers: float = 1.0,
        told: bool = False,
    ) -> TaskBatch:
        """Numbered questions of several levels in one prompt, numbered answers in one reply.

        Args:
            levels: all by default.
            later_answers: weight of the letters and names after the first answer, compared with elsewhere; with 0 their
                form alone is a target.
            told: the parent's name follows the options of each question below the first level.
        """
        prompts, replies = [], []
        for number, level in zip(self.number, examples.levels if levels is None else levels, strict=False):
            questions = examples.questions(level)
            prompts += [tile([number], examples), self.ask(questions)]
            if told and level:
                prompts.append(self._parent(examples, np.full(len(examples), level)))
            replies += [tile([number], examples), self.answer(questions)]
        batch = self.dialogue([(np.concatenate(prompts, 1), np.concatenate(replies, 1))])
        later = np.isin(batch.tokens[0, batch.targets], np.concatenate([self.letter, self.names]))
        later[:3] = False  # number, letter and name of the first answer
        weights = np.where(later, later_answers * batch.weights, batch.weights)
        return replace(batch, weights=weights, letters=batch.letters[weights[batch.letters] > 0])

    def dialogue(
        self, turns: Sequence[tuple[np.ndarray, np.ndarray]], *, name: float = 0.3, letter: float = 1.5
    ) -> TaskBatch:
        """Chat turns of prompt [B, T] and reply [B, T] about one image each.

        The targets are the replies and their end tokens; letters weigh ``letter``, other tokens ``name``.
        """
        parts: list[np.ndarray] = []
        targets: list[int] = []
        for prompt, reply in turns:
            opening = self.next if parts else self.head
            parts += [tile(opening, prompt), prompt, tile(self.reply, prompt), reply, tile(self.stop, prompt)]
            end = sum(part.shape[1] for part in parts)
            targets += range(end - reply.shape[1] - 1, end)
        tokens = np.concatenate(parts, 1)
        is_letter = np.isin(tokens[0, targets], self.letter)
        letters = np.flatnonzero(is_letter)  # an end token at least follows each
        before_name = np.isin(tokens[0, np.array(targets)[letters] + 1], self.names)
        return TaskBatch(tokens, np.array(targets), np.where(is_letter, letter, name), letters[before_name])

    def _parent(self, examples: LabelBatch, level: np.ndarray) -> np.ndarray:
        """[B, 3]: "lineage", the parent's level and its name; at the first level "lineage" twice and the tree."""
        parent, rows = np.maximum(level - 1, 0), np.arange(len(level))
        levels = np.where(level > 0, self.level[parent], self.ids["lineage"])
        names = np.where(level > 0, examples.names[rows, parent], self.tree[examples.tree])
        return np.stack([np.full(len(level), self.ids["lineage"]), levels, names], 1)


def tile(tokens: Sequence[int], batch: Sized) -> np.ndarray:
    """The same tokens for every element of a batch, [B, tokens]."""
    return np.tile(tokens, (len(batch), 1))
