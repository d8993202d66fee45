"""Refuses at the start what could not work or would train on something else than meant; says what the store holds."""

from typing import Any

from sekd.errors import SekdError
from sekd.prompts import Prompter
from sekd.questions import LETTERS
from sekd.store import Layout, Store
from stage2_student import losses
from stage2_student.config import FSDP, LossConfig, StudentConfig
from stage2_student.objective import resolve_layers, wanted_layers

SINGLE_QUESTIONS = ("independent", "conditioned")  # paradigms that can be rehearsed

# Settings of which there must be at least one.
COUNTS = {
    "optim": ("batch_size", "accumulate", "epochs"),
    "lora": ("rank",),
    "rehearsal": ("images",),
    "stream": ("buffer", "open_shards", "ahead"),
    "trainer": ("log_every", "checkpoint_every"),
    "validation": ("held_out_images", "batch_size"),
}


def check_settings(config: StudentConfig) -> None:
    """Faults that need neither store nor model to be seen.

    Raises:
        SekdError: the first one.
    """
    loss = config.loss
    _choice("loss.soft.divergence", loss.soft.divergence, losses.DIVERGENCES)
    _choice("loss.soft.source", loss.soft.source, ("topk", "exact"))
    _choice("loss.hidden.distance", loss.hidden.distance, losses.DISTANCES)
    weights = {name: getattr(loss, name).weight for name in ("hard", "soft", "hidden", "format")}
    for name, weight in {
        **{f"{name}.weight": w for name, w in weights.items()},
        **{f"levels.{level}": w for level, w in loss.levels.items()},
    }.items():
        _demand(weight >= 0, f"loss.{name}: a weight is at least 0, not {weight}")
    _demand(any(weights[name] for name in ("hard", "soft", "hidden")), "loss: hard, soft and hidden all weigh 0")
    _demand(loss.soft.temperature > 0, f"loss.soft.temperature is above 0, not {loss.soft.temperature}")
    _demand(loss.soft.chunk > 0, f"loss.soft.chunk is at least 1, not {loss.soft.chunk}")
    _demand(
        bool(loss.hidden.layers) or not loss.hidden.weight, "loss.hidden.layers names none: set loss.hidden.weight=0"
    )
    _demand(loss.confidence >= 0, f"loss.confidence is at least 0, not {loss.confidence}")
    _demand(0 <= config.validation.held_out <= 0.5, "validation.held_out is a share of the stored examples, 0 to 0.5")
    rehearsal = config.rehearsal
    if rehearsal.paradigm is not None:
        _choice("rehearsal.paradigm", rehearsal.paradigm, SINGLE_QUESTIONS)
    _demand(0 < rehearsal.share <= 1, f"rehearsal.share is above 0 and at most 1, not {rehearsal.share}")
    _demand(
        rehearsal.store is None or rehearsal.paradigm is not None,
        f"rehearsal.store={rehearsal.store}: say how it was asked, rehearsal.paradigm={' or '.join(SINGLE_QUESTIONS)}",
    )
    cache = config.trainer.vision_cache_gb
    _demand(cache >= 0, f"trainer.vision_cache_gb is at least 0, not {cache}")
    _demand(
        not cache or config.trainer.strategy != FSDP,
        "trainer.vision_cache_gb: under trainer=fsdp every process must compute each image; leave it at 0",
    )
    for group, names in COUNTS.items():
        for name in names:
            value = getattr(getattr(config, group), name)
            _demand(value >= 1, f"{group}.{name} is at least 1, not {value}")
    _demand(config.optim.lr > 0, f"optim.lr is above 0, not {config.optim.lr}")
    _demand(0 <= config.lora.dropout < 1, f"lora.dropout is a probability below 1, not {config.lora.dropout}")
    _demand(
        config.model.adapter is None,
        f"model.adapter={config.model.adapter}: the student starts from a model without adapter; "
        "`make merge` writes a merged one, give that as model.path",
    )


def check_store(config: StudentConfig, store: Store) -> None:
    """The store must be whole, and hold what the losses ask for as far as the model need not be known.

    Raises:
        SekdError: it does not.
    """
    loss, layout = config.loss, store.layout
    _demand_whole(store)
    if loss.soft.weight and loss.soft.source == "topk" and loss.soft.k is not None:
        _demand(
            1 <= loss.soft.k <= layout.k,
            f"loss.soft.k={loss.soft.k}: {store.path} holds {layout.k} candidates a step; "
            f"take at most {layout.k}, or store more with `make teacher ARGS=topk={loss.soft.k}`",
        )
    if loss.levels:
        held = {name for shard in range(store.plan.n_shards) for name in _levels(store, shard)}
        unknown = sorted(set(loss.levels) - held)
        _demand(not unknown, f"loss.levels names {unknown}, but {store.path} holds the levels {sorted(held)}")


def check_rehearsal(store: Store, rehearsed: Store) -> None:
    """What is rehearsed must be of the same images, and hold the same kinds of targets.

    Raises:
        SekdError: it does not.
    """
    _demand_whole(rehearsed)
    _demand(
        rehearsed.paradigm in SINGLE_QUESTIONS,
        f"{rehearsed.path} was asked in paradigm={rehearsed.paradigm}: only {' and '.join(SINGLE_QUESTIONS)} passes "
        "ask one question at a time",
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
    """The student must speak of the same tokens and states as the teacher did.

    Raises:
        SekdError: it does not.
    """
    layout = store.layout
    _demand(
        vocab_size == layout.vocab_size,
        f"model {config.model.name} has a vocabulary of {vocab_size} tokens, the teacher of {store.path} had "
        f"{layout.vocab_size}: give the model that was the teacher",
    )
    check_layers(config.loss, layout, n_layers=n_layers, where=str(store.path))
    if wanted_layers(config.loss, n_layers):
        _demand(
            hidden_size == layout.hidden_size,
            f"model {config.model.name} has hidden states of {hidden_size}, {store.path} holds {layout.hidden_size}: "
            "give the model that was the teacher, or set loss.hidden.weight=0 loss.soft.source=topk",
        )


def check_layers(loss: LossConfig, layout: Layout, *, n_layers: int, where: str) -> None:
    """Raises ``SekdError`` when a layer that a loss asks for is not stored."""
    held = f"{where} holds {list(layout.layers) or 'no hidden states'}, the model's last layer is {n_layers}"
    if unknown := sorted(set(resolve_layers(loss, n_layers)) - set(layout.layers)):
        raise SekdError(
            f"loss.hidden.layers asks for {unknown}, but {held}: choose among those, "
            "set loss.hidden.weight=0, or run the teacher with these layers"
        )
    if unknown := sorted(set(wanted_layers(loss, n_layers)) - set(layout.layers)):
        raise SekdError(
            f"loss.soft.source=exact needs layer {unknown[0]}, but {held}: take loss.soft.source=topk, "
            "or run the teacher with that layer"
        )


def check_letters(prompter: Prompter, tokenizer: Any, layout: Layout) -> list[int]:
    """The letters' token ids, which must be those that the teacher chose among.

    Raises:
        SekdError: this model's tokenizer or wording has others.
    """
    ids = prompter.letter_ids(tokenizer, len(layout.letter_ids))
    if ids != list(layout.letter_ids):
        raise SekdError(
            f"with wording {prompter.wording.name} the letters {LETTERS[: len(ids)]} are tokens {ids}, but the teacher "
            f"chose among {list(layout.letter_ids)}: take the model and wording that the store was made with"
        )
    return ids


def _levels(store: Store, shard: int) -> list[str]:
    return store.read_targets(shard, ["level"]).column("level").unique().to_pylist()


def _demand_whole(store: Store) -> None:
    missing = len(store.missing())
    _demand(
        not missing, f"{store.path} lacks {missing} of {store.plan.n_shards} shards; `make teacher` goes on from there"
    )


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    _demand(value in known, f"{name}={value} is unknown: choose {', '.join(known)}")


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SekdError(otherwise)
