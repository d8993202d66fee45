"""Checks of settings, store and model before training.

Every check raises ``SekdError`` for the first fault.
"""

from functools import reduce
from typing import Any

from sekd.descent import check_threshold
from sekd.errors import SekdError
from sekd.prompts import Prompter
from sekd.questions import LETTERS
from sekd.store import Layout, Store
from sekd.tracking import check_tracker
from stage2_student import losses
from stage2_student.config import INDEPENDENT, LEAF, StudentConfig
from stage2_student.objective import resolve_layers, wanted_layers

SINGLE_QUESTIONS = ("independent", "conditioned")  # paradigms that can be rehearsed
CHOICES = {
    "loss.soft.divergence": losses.DIVERGENCES,
    "loss.soft.source": ("topk", "exact"),
    "loss.hidden.distance": losses.DISTANCES,
    "rehearsal.paradigm": (None, *SINGLE_QUESTIONS),
}
WEIGHTS = ("loss.hard.weight", "loss.soft.weight", "loss.hidden.weight")
NOT_NEGATIVE = (*WEIGHTS, "loss.format.weight", "loss.confidence")
POSITIVE = ("loss.soft.temperature", "optim.lr", "rehearsal.weight")
AT_LEAST_ONE = (
    *("loss.soft.chunk", "lora.rank", "rehearsal.images", "optim.batch_size", "optim.accumulate", "optim.epochs"),
    *("stream.buffer", "stream.open_shards", "stream.ahead", "trainer.log_every", "trainer.checkpoint_every"),
    *("validation.held_out_images", "validation.batch_size"),
)


def check_settings(config: StudentConfig) -> None:
    """Checks that need neither store nor model."""
    for name, known in CHOICES.items():
        value = _value(config, name)
        _demand(value in known, f"{name}={value} is unknown: choose {', '.join(filter(None, known))}")
    for name in NOT_NEGATIVE:
        _demand(_value(config, name) >= 0, f"{name} is at least 0, not {_value(config, name)}")
    for name in POSITIVE:
        _demand(_value(config, name) > 0, f"{name} is above 0, not {_value(config, name)}")
    for name in AT_LEAST_ONE:
        _demand(_value(config, name) >= 1, f"{name} is at least 1, not {_value(config, name)}")
    check_threshold(config.min_path_probability, "min_path_probability")
    check_tracker(config.tracker)
    loss, rehearsal = config.loss, config.rehearsal
    for level, weight in loss.levels.items():
        _demand(weight >= 0, f"loss.levels.{level} is at least 0, not {weight}")
    _demand(any(_value(config, name) for name in WEIGHTS), "loss: hard, soft and hidden all weigh 0")
    layers = bool(loss.hidden.layers) or not loss.hidden.weight
    _demand(layers, "loss.hidden.layers names none: set loss.hidden.weight=0")
    _demand(0 <= config.validation.held_out <= 0.5, "validation.held_out is a share of the stored examples, 0 to 0.5")
    _demand(0 < rehearsal.share <= 1, f"rehearsal.share is above 0 and at most 1, not {rehearsal.share}")
    _demand(
        rehearsal.store is None or rehearsal.paradigm is not None,
        f"rehearsal.store={rehearsal.store}: say how it was asked, rehearsal.paradigm={' or '.join(SINGLE_QUESTIONS)}",
    )
    for request in rehearsal.requests:
        _demand(bool(request.strip()), f"rehearsal.requests={rehearsal.requests}: a request is a prompt, not empty")
        _demand(
            request == INDEPENDENT or request.strip().lower() not in (*SINGLE_QUESTIONS, "joint"),
            f"rehearsal.requests: {request!r} would be asked as a prompt of that word; {INDEPENDENT} alone stands for "
            "a question of the image's path; those of a stored pass are rehearsed by rehearsal.paradigm",
        )
    _demand(0 <= config.lora.dropout < 1, f"lora.dropout is a probability below 1, not {config.lora.dropout}")
    _demand(
        config.model.adapter is None,
        f"model.adapter={config.model.adapter}: the student starts from a model without adapter; "
        "`make merge` writes a merged one, give that as model.path",
    )


def check_store(config: StudentConfig, store: Store) -> None:
    """The store must be complete and hold what the losses need; the checks that need no model."""
    loss, layout = config.loss, store.layout
    _demand_whole(store)
    if loss.soft.weight and loss.soft.source == "topk" and loss.soft.k is not None:
        _demand(
            1 <= loss.soft.k <= layout.k,
            f"loss.soft.k={loss.soft.k}: {store.path} holds {layout.k} candidates a step; "
            f"take at most {layout.k}, or store more with `make teacher ARGS=topk={loss.soft.k}`",
        )
    _demand(
        layout.path_logprob or not config.min_path_probability,
        f"min_path_probability: {store.path} holds no path probabilities; a pass with data.questions=descent does",
    )
    if named := set(loss.levels) - {LEAF}:
        shards = range(store.plan.n_shards)
        held = {level for shard in shards for level in store.read_targets(shard, ["level"])["level"].to_pylist()}
        unknown = sorted(named - held)
        known = f"{store.path} holds the levels {sorted(held)}, and {LEAF!r} is the last of each path"
        _demand(not unknown, f"loss.levels names {unknown}, but {known}")


def check_rehearsal(config: StudentConfig, store: Store, rehearsed: Store) -> None:
    """The rehearsed pass must be of the configured paradigm, over the same images, with the same kinds of targets."""
    _demand_whole(rehearsed)
    _demand(
        rehearsed.paradigm == config.rehearsal.paradigm,
        f"rehearsal.store: {rehearsed.path} was asked in paradigm={rehearsed.paradigm}, but "
        f"rehearsal.paradigm={config.rehearsal.paradigm}",
    )
    for what, here, there in (
        ("data", store.identity["data"], rehearsed.identity["data"]),
        ("model", store.identity["model"], rehearsed.identity["model"]),
        ("targets", store.layout, rehearsed.layout),
    ):
        _demand(
            here == there,
            f"{rehearsed.path} is of other {what} than {store.path}: make both with the same settings, "
            f"this one with `make teacher ARGS=paradigm={rehearsed.paradigm}`",
        )


def check_model(config: StudentConfig, store: Store, *, n_layers: int, hidden_size: int, vocab_size: int) -> None:
    """The student must have the teacher's tokens and hidden states, and the compared layers must be stored."""
    loss, layout = config.loss, store.layout
    _demand(
        vocab_size == layout.vocab_size,
        f"model {config.model.name} has a vocabulary of {vocab_size} tokens, the teacher of {store.path} had "
        f"{layout.vocab_size}: give the model that was the teacher",
    )
    held = f"{store.path} holds {list(layout.layers) or 'no hidden states'}, the model's last layer is {n_layers}"
    unknown = sorted(set(resolve_layers(loss, n_layers)) - set(layout.layers))
    _demand(
        not unknown,
        f"loss.hidden.layers asks for {unknown}, but {held}: choose among those, "
        "set loss.hidden.weight=0, or run the teacher with these layers",
    )
    wanted = wanted_layers(loss, n_layers)
    _demand(
        set(wanted) <= set(layout.layers),
        f"loss.soft.source=exact needs layer {n_layers}, but {held}: take loss.soft.source=topk, "
        "or run the teacher with that layer",
    )
    _demand(
        not wanted or hidden_size == layout.hidden_size,
        f"model {config.model.name} has hidden states of {hidden_size}, {store.path} holds {layout.hidden_size}: "
        "give the model that was the teacher, or set loss.hidden.weight=0 loss.soft.source=topk",
    )


def check_letters(prompter: Prompter, tokenizer: Any, layout: Layout) -> list[int]:
    ids = prompter.letter_ids(tokenizer, len(layout.letter_ids))
    _demand(
        ids == list(layout.letter_ids),
        f"with wording {prompter.wording.name} the letters {LETTERS[: len(ids)]} are tokens {ids}, but the teacher "
        f"chose among {list(layout.letter_ids)}: take the model and wording that the store was made with",
    )
    return ids


def _value(config: StudentConfig, name: str) -> Any:
    return reduce(getattr, name.split("."), config)


def _demand_whole(store: Store) -> None:
    missing, shards = len(store.missing()), store.plan.n_shards
    _demand(not missing, f"{store.path} lacks {missing} of {shards} shards; `make teacher` goes on from there")


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SekdError(otherwise)
