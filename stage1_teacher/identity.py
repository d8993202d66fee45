"""What the teacher's answers depend on, and nothing else: two passes with one identity give the same targets."""

from pathlib import Path
from typing import Any

from sekd.datasets import Dataset
from sekd.errors import SekdError
from sekd.inference.dimensions import read_dimensions, resolve_layers
from sekd.models import load_processor, model_identity
from sekd.prompts import Prompter
from sekd.questions import LETTERS
from sekd.store import Layout, Plan, Store
from stage1_teacher.config import TeacherConfig
from stage1_teacher.teacher_modes import USES_LABELS, StoredAnswers


def identity(config: TeacherConfig, dataset: Dataset, prompter: Prompter) -> dict[str, Any]:
    """For the store's fingerprint, beside the layout: who is asked, about what, in which words, in which order."""
    return {"model": model_identity(config.taught_by), **questioning(config, dataset, prompter)}


def questioning(config: TeacherConfig, dataset: Dataset, prompter: Prompter) -> dict[str, Any]:
    """The part of the identity that is not the model: about what it is asked, in which words, in which order."""
    special: dict[str, Any] = {"uses_labels": True} if config.paradigm in USES_LABELS else {}
    if config.teacher.prefixes:
        special["prefixes"] = StoredAnswers(Path(config.teacher.prefixes), dataset).store.fingerprint
    return {"prompts": prompter.identity(), "data": dataset.identity(), "paradigm": config.paradigm, **special}


def check_questioning(store: Store, config: TeacherConfig, dataset: Dataset, prompter: Prompter) -> None:
    """A worker asks what the store's fingerprint says, or nothing: its process may see other files than the planner's.

    Raises:
        SekdError: the questions or their wording changed since the pass was planned.
    """
    for name, part in questioning(config, dataset, prompter).items():
        if store.identity[name] != part:
            raise SekdError(f"{store.path}: the {name} changed since this pass was planned; start it again")


def layout(config: TeacherConfig, prompter: Prompter) -> Layout:
    """What is kept at every answer position.

    Raises:
        SekdError: layers that the model does not have, or a letter that is not one token.
    """
    dimensions = read_dimensions(config.taught_by)
    tokenizer = load_processor(config.taught_by).tokenizer
    return Layout(
        k=config.topk,
        layers=resolve_layers(config.layers, dimensions, name=config.model.name),
        hidden_size=dimensions.hidden_size,
        hidden_dtype=config.hidden_dtype or dimensions.dtype,
        vocab_size=dimensions.vocab_size,
        letter_ids=prompter.letter_ids(tokenizer, min(config.data.options, len(LETTERS))),
        path_logprob=config.data.by_descent,
    )


def plan(config: TeacherConfig, dataset: Dataset) -> Plan:
    """How the examples are cut into shards: as those of the prefixes, where there are any."""
    if config.teacher.prefixes:
        return Store.open(Path(config.teacher.prefixes)).plan
    return Plan(n_examples=len(dataset.examples), shard_size=config.shard_size)
