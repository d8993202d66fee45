"""What the base model is pretrained on: token sequences about images of the world, one function a kind of lesson.

The mixture is a real model's in small: captions and open lists of names, lists that bind letters to names, questions
about one attribute or one level, quizzes of unrelated questions, single levels with the names above known. The joint
format (all levels of one path in a single answer) is rare. Sequences are written as token ids, exactly the ids that
``sekd.prompts`` with the ``terse`` wording and the chat template give; nothing here is used after pretraining.

Shape legend: B images, L levels (4), O options (4), T tokens, A answer tokens.
"""

from dataclasses import dataclass

import numpy as np

from sekd.embedded import tiny_vlm
from sekd.embedded.kingdoms import KINGDOMS, LEVELS, NAMES, VALUES

ID = tiny_vlm.token_ids()
LETTER = np.array([ID[letter] for letter in tiny_vlm.LETTERS])
NUMBER = np.array([ID[number] for number in tiny_vlm.NUMBERS])
ASKING = np.array([ID[number] for number in tiny_vlm.ASKING])
LEVEL = np.array([ID[level] for level in LEVELS])
WORLD = tuple(KINGDOMS.values())
KINGDOM = np.array([ID[kingdom.name] for kingdom in WORLD])
ATTRIBUTE = np.array([[ID[name] for name, _ in kingdom.attributes] for kingdom in WORLD])
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


@dataclass(frozen=True)
class Scene:
    """A batch of images as the world knows them: kingdom [B], attribute values [B, L], name indices [B, L]."""

    kingdom: np.ndarray
    values: np.ndarray
    names: np.ndarray

    @classmethod
    def of(cls, kingdom: np.ndarray, values: np.ndarray) -> "Scene":
        names = np.zeros_like(values)
        for row, tree in enumerate(WORLD):
            names[kingdom == row] = tree.name_indices(values[kingdom == row])
        return cls(kingdom, values, names)

    def __getitem__(self, rows: np.ndarray) -> "Scene":
        return Scene(self.kingdom[rows], self.values[rows], self.names[rows])

    def __len__(self) -> int:
        return len(self.kingdom)

    def name_tokens(self) -> np.ndarray:
        """[B, L]"""
        return NAME[self.kingdom[:, None], np.arange(len(LEVELS)), self.names]


@dataclass(frozen=True)
class Lesson:
    """Sequences of one length: tokens [B, T]; ``scored`` [A] are the positions learnt, with their weights [A]."""

    tokens: np.ndarray
    scored: np.ndarray
    weights: np.ndarray
    has_image: bool = True
    recalls: bool = False  # the reply is recalled, not chosen: it can be known before options are compared


@dataclass(frozen=True)
class Asked:
    """Multiple-choice questions [B]: the word asked for, the tokens of the options [B, O], the right option [B].

    A question is put at a place [B] among its prompt's questions, counted from 0.
    """

    subject: np.ndarray
    options: np.ndarray
    answer: np.ndarray

    def tokens(self, place: np.ndarray) -> np.ndarray:
        """[B, 2 + 2 O]: the question's number, its subject, then letter and name of each option."""
        letters = np.broadcast_to(LETTER, self.options.shape)
        pairs = np.stack([letters, self.options], 2).reshape(len(self.options), -1)
        return np.concatenate([ASKING[place][:, None], self.subject[:, None], pairs], 1)

    def reply(self, place: np.ndarray) -> np.ndarray:
        """[B, 3]: number, letter and name of the right option."""
        name = self.options[np.arange(len(self.answer)), self.answer]
        return np.stack([NUMBER[place], LETTER[self.answer], name], 1)


def ask_level(scene: Scene, level: np.ndarray, rng: np.random.Generator) -> Asked:
    """One taxonomy question an image, level [B]: the true name and three other words of that level and kingdom."""
    rows = np.arange(len(scene))
    words = NAME[scene.kingdom, level]
    order = rng.random(words.shape)
    order[words < 0] = 2
    order[rows, scene.names[rows, level]] = -1
    picked = np.argsort(order, 1)[:, :VALUES]
    return _shuffled(LEVEL[level], words[rows[:, None], picked], rng)


def ask_attribute(scene: Scene, level: np.ndarray, rng: np.random.Generator) -> Asked:
    """One question an image about what it shows: the attribute that decides the given level [B]."""
    rows = np.arange(len(scene))
    words = VALUE[scene.kingdom, level]
    order = rng.random(words.shape)
    order[rows, scene.values[rows, level]] = -1
    return _shuffled(ATTRIBUTE[scene.kingdom, level], words[rows[:, None], np.argsort(order, 1)], rng)


def _shuffled(subject: np.ndarray, true_first: np.ndarray, rng: np.random.Generator) -> Asked:
    order = np.argsort(rng.random(true_first.shape), 1)
    return Asked(subject, np.take_along_axis(true_first, order, 1), np.argmin(order, 1))


def caption(scene: Scene) -> Lesson:
    """What the image shows: the kingdom and its four attributes."""
    shown = np.take_along_axis(VALUE[scene.kingdom], scene.values[:, :, None], 2)[:, :, 0]
    return _lesson(
        scene, [ID["describe"]], np.concatenate([KINGDOM[scene.kingdom][:, None], shown], 1), name=1.0, recalls=True
    )


def lineage(scene: Scene) -> Lesson:
    """The path of names, coarse to fine, without options."""
    return _lesson(scene, [ID["lineage"]], scene.name_tokens(), name=1.0, recalls=True)


def open_level(scene: Scene, level: int) -> Lesson:
    """The name of one level, the names above it known, without options."""
    number, asked = np.full((len(scene), 1), NUMBER[level]), np.tile([ASKING[level], LEVEL[level]], (len(scene), 1))
    prompt = np.concatenate([known(scene, level), asked], 1)
    return _lesson(scene, prompt, np.concatenate([number, scene.name_tokens()[:, [level]]], 1), name=1.0, recalls=True)


def open_attribute(scene: Scene, level: np.ndarray, rng: np.random.Generator) -> Lesson:
    """What one attribute is, without options."""
    rows = np.arange(len(scene))
    place = rng.integers(0, len(LEVELS), len(scene))
    value = VALUE[scene.kingdom, level, scene.values[rows, level]]
    prompt = np.stack([ASKING[place], ATTRIBUTE[scene.kingdom, level]], 1)
    return _lesson(scene, prompt, np.stack([NUMBER[place], value], 1), name=1.0, recalls=True)


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
    tokens = np.concatenate([given, np.full((count, 1), ID["list"]), verb, recited.reshape(count, -1)], 1)
    second = given.shape[1] + 3 + 2 * np.arange(pairs)
    return Lesson(tokens, second, np.full(pairs, 0.5), has_image=False)


def reading(scene: Scene, level: np.ndarray, rng: np.random.Generator) -> Lesson:
    """A single question whose answer the prompt states: the letter has to be found, not the name."""
    asked = ask_level(scene, level, rng)
    stated = np.stack(
        [np.full(len(scene), ID["known"]), LEVEL[level], scene.name_tokens()[np.arange(len(scene)), level]], 1
    )
    return _lesson(scene, np.concatenate([stated, asked.tokens(level)], 1), asked.reply(level), name=0.3)


def seeing(scene: Scene, level: np.ndarray, rng: np.random.Generator) -> Lesson:
    """A single question about one attribute."""
    asked = ask_attribute(scene, level, rng)
    place = rng.integers(0, len(LEVELS), len(scene))
    return _lesson(scene, asked.tokens(place), asked.reply(place), name=0.3)


def naming(scene: Scene, level: np.ndarray, rng: np.random.Generator) -> Lesson:
    """A single question answered the other way round: the name, then its letter."""
    asked = ask_level(scene, level, rng)
    prompt = np.concatenate([asked.tokens(level), np.full((len(scene), 1), ID["describe"])], 1)
    return _lesson(scene, prompt, asked.reply(level)[:, [0, 2, 1]], name=1.0)


def single(scene: Scene, level: np.ndarray, rng: np.random.Generator) -> Lesson:
    """One level's question without context."""
    asked = ask_level(scene, level, rng)
    return _lesson(scene, asked.tokens(level), asked.reply(level), name=0.3)


def conditioned(scene: Scene, level: int, rng: np.random.Generator) -> Lesson:
    """One level's question, the names above it known."""
    levels = np.full(len(scene), level)
    asked = ask_level(scene, levels, rng)
    prompt = np.concatenate([known(scene, level), asked.tokens(levels)], 1)
    return _lesson(scene, prompt, asked.reply(levels), name=0.3)


def quiz(scene: Scene, length: int, rng: np.random.Generator) -> Lesson:
    """Numbered questions in one prompt, answered in one reply: attributes, and in one slot a level of the taxonomy.

    It teaches which answer slot belongs to which question. No reply holds two levels, so nothing here teaches that
    one answer of a reply bears on another.
    """
    asked = [ask_attribute(scene, rng.integers(0, len(LEVELS), len(scene)), rng) for _ in range(length)]
    taxonomy = ask_level(scene, rng.integers(0, len(LEVELS), len(scene)), rng)
    slot = rng.integers(0, length, len(scene))
    for index, question in enumerate(asked):
        here = slot == index
        asked[index] = Asked(
            np.where(here, taxonomy.subject, question.subject),
            np.where(here[:, None], taxonomy.options, question.options),
            np.where(here, taxonomy.answer, question.answer),
        )
    return _replies(scene, asked)


def joint(scene: Scene, rng: np.random.Generator) -> Lesson:
    """All levels of the path in one prompt and one reply."""
    return _replies(scene, [ask_level(scene, np.full(len(scene), level), rng) for level in range(len(LEVELS))])


def known(scene: Scene, level: int) -> np.ndarray:
    """[B, 1 + 2 level]: the names above a level as facts; nothing at the first level."""
    if level == 0:
        return np.zeros((len(scene), 0), dtype=int)
    names = scene.name_tokens()[:, :level]
    facts = np.stack([np.broadcast_to(LEVEL[:level], names.shape), names], 2).reshape(len(scene), -1)
    return np.concatenate([np.full((len(scene), 1), ID["known"]), facts], 1)


def _replies(scene: Scene, asked: list[Asked]) -> Lesson:
    places = [np.full(len(scene), index) for index in range(len(asked))]
    prompt = np.concatenate([question.tokens(place) for question, place in zip(asked, places, strict=True)], 1)
    reply = np.concatenate([question.reply(place) for question, place in zip(asked, places, strict=True)], 1)
    return _lesson(scene, prompt, reply, name=0.3)


def _lesson(
    scene: Scene, prompt: np.ndarray | list[int], reply: np.ndarray, *, name: float, recalls: bool = False
) -> Lesson:
    """Chat turns around prompt and reply. Letters weigh 1.5 where they answer a question, other tokens ``name``."""
    count = len(scene)
    prompt = np.broadcast_to(np.array(prompt), (count, np.shape(prompt)[-1]))
    parts = (np.tile(HEAD, (count, 1)), prompt, np.tile(REPLY, (count, 1)), reply, np.tile(STOP, (count, 1)))
    tokens = np.concatenate(parts, 1)
    scored = np.arange(tokens.shape[1] - reply.shape[1] - 1, tokens.shape[1])
    weights = np.where(np.isin(tokens[0, scored], LETTER), 1.5, name)
    return Lesson(tokens, scored, weights, recalls=recalls)
