"""Encode stored paths as tensors: prompt, image, the teacher's answers, and the letters' positions.

Independent of the store and the losses. Shape legend: as in ``stage2_student.batch``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sekd.datasets.images import DECODE_ERRORS, decode, image_size
from sekd.errors import SekdError
from sekd.models import ModelConfig, load_processor
from sekd.prompts import Prompt, Prompter, request
from sekd.questions import Question
from stage2_student.batch import Batch, Candidates, Positions, Requests
from stage2_student.config import INDEPENDENT, RehearsalConfig
from stage2_student.stored import TeacherPath

CHARACTERS_A_TOKEN = 4  # only to estimate lengths before encoding


class Encoder:
    """Turns paths into batches. Holds no reference to the store, so that workers can have a copy.

    Stored image paths are relative to ``root``. ``end_id`` is the token that ends an answer.

    Raises:
        SekdError: a request of ``rehearsal`` holds a special token, such as that of an image or of an unknown word.
    """

    def __init__(self, model: ModelConfig, root: Path, rehearsal: RehearsalConfig | None = None) -> None:
        self._model = model
        self._root = root
        self._rehearsal = rehearsal or RehearsalConfig()
        self._processor = load_processor(model)
        self._prompter = Prompter.named(model.wording)
        self.tokenizer = self._processor.tokenizer
        self.end_id = self._prompter.end_of_turn(self._processor)
        self._check_requests()
        self._letter_ids = cache(lambda options: self._prompter.letter_ids(self.tokenizer, options))

    def __reduce__(self) -> tuple[Any, ...]:
        """A process that is not forked loads its own processor, whose class may exist only in this process."""
        return Encoder, (self._model, self._root, self._rehearsal)

    def length(self, path: TeacherPath) -> float:
        """The approximate number of tokens of an example, without decoding its image."""
        file = self._root / path.image
        with _named(file):
            width, height = image_size(file)
            counted = self._processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        return counted["num_image_tokens"][0] + len(self._prompt(path)) / CHARACTERS_A_TOKEN

    def batch(self, paths: Sequence[TeacherPath], *, images: int, all_images: int, world: int) -> Batch:
        """One batch, padded on the right, so that each answer directly follows its prompt.

        Args:
            images: the number of paths with weight: all, or none.
            all_images: the same over all ``world`` ranks.

        Raises:
            SekdError: an image cannot be read or is refused by the model's processor, a letter is not the token that
                the teacher chose, or the processor does not pad on the right.
        """
        paths = self._asked_first(paths)
        answers = [self._answer(path) for path in paths]
        pictures = [read_image(self._root / path.image) for path in paths]
        with _named(*(self._root / path.image for path in paths)):
            prompts = self._process([self._prompt(path) for path in paths], pictures)
        inputs, starts = self._extended(prompts, [ids for ids, _ in answers])
        letters, others = [], []
        for row, (path, (ids, places), start) in enumerate(zip(paths, answers, starts, strict=True)):
            # An on-policy reply may have other letters than the teacher's.
            targets = dict(zip(places, self._targets(path), strict=True))
            letters += [(row, start + place - 1, token) for place, token in targets.items()]
            others += [(row, start + place - 1, token) for place, token in enumerate(ids) if place not in targets]
        answer_positions = _positions(letters)
        stored = [path.candidates for path in paths if path.candidates]
        candidates = Candidates.concatenate(stored) if stored else None
        hidden = [path.hidden_SRD for path in paths if path.hidden_SRD is not None]
        steps = [len(path.steps) for path in paths]
        names = tuple(dict.fromkeys(question.level for path in paths for question in path.questions))
        levels = [names.index(path.questions[step].level) for path in paths for step in path.steps]
        share = world / all_images if images else 0.0
        return Batch(
            inputs=inputs,
            answer_positions=answer_positions,
            format_positions=_positions(others),
            answers_N=torch.tensor([path.answers[step] for path in paths for step in path.steps]),
            levels_N=torch.tensor(levels),
            level_names=names,
            leaf_N=torch.tensor([step + 1 == len(path.questions) for path in paths for step in path.steps]),
            shares_N=_shares(share, steps),
            shares_M=_shares(share, [len(ids) - n for (ids, _), n in zip(answers, steps, strict=True)]),
            candidates=candidates,
            parent_prob_N=None if candidates is None else _parent_probs(candidates, answer_positions.tokens, steps),
            hidden_NRD=_states(np.concatenate(hidden)) if hidden else None,
            images=images,
            names=tuple(path.image for path in paths),
            requests=self._requests(paths, pictures, share) if self._rehearsal.requests else None,
        )

    def prompts(self, images: Sequence[Path], questions: Sequence[Sequence[Question]]) -> dict[str, Tensor]:
        """Joint prompts, padded on the left, for generation."""
        texts = [self._joint(asked) for asked in questions]
        return self._process(texts, [read_image(image) for image in images], padding_side="left")

    def answer_length(self, questions: Sequence[Question]) -> int:
        """Tokens of the longest joint answer to these questions, the end of the turn included."""
        longest = self._prompter.longest_answer(questions)
        return len(self.tokenizer(longest, add_special_tokens=False)["input_ids"]) + 1

    def _joint(self, questions: Sequence[Question]) -> str:
        return self._prompter.render(self._processor, self._prompter.joint(questions))

    def _prompt(self, path: TeacherPath) -> str:
        if path.single is None:
            return self._joint(path.questions)
        prompt = self._prompter.single(path.single.paradigm, path.questions, path.single.step, path.answers)
        return self._prompter.render(self._processor, prompt)

    def _answer(self, path: TeacherPath) -> tuple[list[int], list[int]]:
        """The answer's tokens with the end of the turn, and the index of each letter; of a single step, its letter."""
        if path.single is not None:
            return self._targets(path), [0]
        ids, letters = self._prompter.answer_tokens(self.tokenizer, path.questions, path.given or path.answers)
        return [*ids, self.end_id], letters

    def _targets(self, path: TeacherPath) -> list[int]:
        return [self._letter_ids(len(path.questions[step].options))[path.answers[step]] for step in path.steps]

    def _check_requests(self) -> None:
        added = self.tokenizer.added_tokens_decoder
        special = {*self.tokenizer.all_special_ids, *(token for token, entry in added.items() if entry.special)}
        for text in self._rehearsal.requests:
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if text != INDEPENDENT and (found := special.intersection(ids)):
                held = ", ".join(self.tokenizer.convert_ids_to_tokens(sorted(found)))
                raise SekdError(
                    f"rehearsal.requests: {text!r} holds {held} as model {self._model.name} reads it: "
                    "name plain words that its tokenizer knows"
                )

    def _asked_first(self, paths: Sequence[TeacherPath]) -> Sequence[TeacherPath]:
        """The paths in an order in which any of them may be among the first, which get the requests.

        A batch of similar lengths comes with the shortest first. A batch's new order is always the same.
        """
        if not self._rehearsal.requests or self._rehearsal.images >= len(paths):
            return paths
        return sorted(paths, key=lambda path: crc32(f"{paths[0].image} {path.image} {path.single}".encode()))

    def _requests(self, paths: Sequence[TeacherPath], pictures: list[Image.Image], share: float) -> Requests:
        """The requests about the first images of a batch: one for each image, always the same."""
        own = paths[: self._rehearsal.images]
        asked = [self._request(path) for path in own]
        texts = [self._prompter.render(self._processor, prompt) for prompt in asked]
        inputs = self._process(texts, pictures[: len(own)])
        shares_A = torch.full((len(own),), share * self._rehearsal.weight)
        return Requests(inputs, inputs["attention_mask"].sum(dim=1) - 1, shares_A)

    def _request(self, path: TeacherPath) -> Prompt:
        known = self._rehearsal.requests
        level, which = divmod(crc32(path.image.encode()), len(known))
        if known[which] == INDEPENDENT:
            return self._prompter.independent(path.questions, level % len(path.questions))
        return request(known[which])

    def _process(
        self, texts: list[str], images: list[Image.Image], *, padding_side: str = "right"
    ) -> dict[str, Tensor]:
        """The processor's tensors, or a ``SekdError`` where it pads on another side than it is asked to.

        The side is an argument of the call: a processor class may have one that goes before the tokenizer's.
        """
        bos = self.tokenizer.bos_token
        written = bool(bos) and all(text.startswith(bos) for text in texts)  # by the chat template: not twice
        inputs = self._processor(
            text=texts,
            images=images,
            padding=True,
            padding_side=padding_side,
            add_special_tokens=not written,
            return_tensors="pt",
        )
        if not inputs["attention_mask"][:, 0 if padding_side == "right" else -1].all():
            raise SekdError(
                f"model {self._model.name}: {type(self._processor).__name__} does not pad on the {padding_side} where "
                "it is asked to, so answers would be written over prompts; take a model whose processor does"
            )
        return dict(inputs)

    def _extended(self, inputs: dict[str, Tensor], answers: list[list[int]]) -> tuple[dict[str, Tensor], list[int]]:
        """Prompts [B, T] with each row's answer after its own prompt, and the start of each answer in its row."""
        prompts = inputs["input_ids"]
        starts = inputs["attention_mask"].sum(dim=1).tolist()
        more = max(start + len(ids) for start, ids in zip(starts, answers, strict=True)) - prompts.shape[1]
        longer = {
            name: torch.nn.functional.pad(value, (0, more)) if value.shape == prompts.shape else value
            for name, value in inputs.items()
        }
        longer["input_ids"][longer["attention_mask"] == 0] = self.tokenizer.pad_token_id
        for row, (start, ids) in enumerate(zip(starts, answers, strict=True)):
            longer["input_ids"][row, start : start + len(ids)] = torch.tensor(ids)
            longer["attention_mask"][row, start : start + len(ids)] = 1
        return longer, starts


def read_image(path: Path) -> Image.Image:
    """The image as the teacher saw it, or a ``SekdError`` that names the file."""
    with _named(path):
        return decode(path)


@contextmanager
def _named(*paths: Path) -> Iterator[None]:
    """Adds the images' names to an error of reading or processing them."""
    try:
        yield
    except SekdError:  # already a complete message, and a ValueError like some decoders' errors
        raise
    except DECODE_ERRORS as error:
        raise SekdError(
            f"{', '.join(map(str, paths))} cannot be read as an image ({error}), though the teacher read it: "
            "put the dataset back as it was, or run `make teacher` on what is there now"
        ) from error


def _positions(places: list[tuple[int, int, int]]) -> Positions:
    return Positions(*torch.tensor(places, dtype=torch.long).view(-1, 3).T.contiguous())


def _shares(share: float, counts: Sequence[int]) -> Tensor:
    """An example's weight in the step, spread evenly over its positions."""
    return torch.tensor([share / count for count in counts for _ in range(count)], dtype=torch.float32)


def _parent_probs(candidates: Candidates, letters_N: Tensor, steps: Sequence[int]) -> Tensor:
    """The teacher's probability of its answer to the step above, 1 for the first step, [N].

    A letter outside the stored candidates has at most the tail's probability, and at most the last candidate's.
    """
    found_NK = candidates.ids_NK == letters_N[:, None]
    bound_N = torch.minimum(candidates.tail_N, candidates.logprobs_NK[:, -1])
    stored_N = candidates.logprobs_NK.masked_fill(~found_NK, -torch.inf).amax(dim=1)
    own_N = torch.where(found_NK.any(dim=1), stored_N, bound_N).exp()
    above_N = own_N.roll(1)
    above_N[torch.tensor([0, *steps[:-1]]).cumsum(dim=0)] = 1.0
    return above_N


def _states(stored_NRD: np.ndarray) -> Tensor:
    """Hidden states as tensors; uint16 holds the bits of bfloat16."""
    states = torch.from_numpy(stored_NRD)
    return states.view(torch.bfloat16) if states.dtype == torch.uint16 else states
