"""What cannot work is refused at the start, with what the store holds and what to do."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from student_settings import Configure

from sekd.datasets import DataConfig
from sekd.errors import SekdError
from sekd.models import ModelConfig, load_processor
from sekd.prompts import Prompter
from sekd.store import Store
from stage2_student.checks import check_letters, check_model, check_settings
from stage2_student.config import HiddenConfig, LoraSettings, LossConfig, SoftConfig, TrainerConfig
from stage2_student.training import assemble, weights_dtype
from tools.pretrain_base import tiny_vlm


def loss(**changes: object) -> LossConfig:
    return LossConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (loss(hidden=HiddenConfig(layers=[3])), r"asks for \[3\].*holds \[2, 4\].*last layer is 4"),
        (loss(hidden=HiddenConfig(layers=[-2])), r"asks for \[3\]"),
        (loss(soft=SoftConfig(k=9)), "holds 8 candidates"),
        (loss(soft=SoftConfig(k=0)), "holds 8 candidates"),
        (loss(soft=SoftConfig(temperature=0.0)), "temperature is above 0"),
        (loss(soft=SoftConfig(temperature=-1.0)), "temperature is above 0"),
        (loss(soft=SoftConfig(divergence="sideways")), "choose forward, reverse, js"),
        (loss(soft=SoftConfig(source="guess")), "choose topk, exact"),
        (loss(hidden=HiddenConfig(distance="far")), "choose cosine, mse"),
        (loss(hidden=HiddenConfig(weight=-0.5)), "at least 0, not -0.5"),
        (loss(hidden=HiddenConfig(layers=[])), "names none"),
        (loss(hidden=HiddenConfig(layers=[-9])), r"asks for \[-4\]"),
        (loss(confidence=-1.0), "confidence is at least 0"),
        (loss(levels={"tribe": 2.0}), r"names \['tribe'\].*holds the levels \['family', 'genus', 'order', 'species'\]"),
    ],
)
def test_a_loss_that_the_store_cannot_serve_is_refused(
    changed: LossConfig, said: str, configure: Configure, store: Store
) -> None:
    with pytest.raises(SekdError, match=said):
        assemble(configure(loss=changed), store)


def test_losses_that_all_weigh_nothing_are_refused(configure: Configure, store: Store) -> None:
    changed = loss()
    for name in ("hard", "soft", "hidden"):
        getattr(changed, name).weight = 0.0
    with pytest.raises(SekdError, match="all weigh 0"):
        assemble(configure(loss=changed), store)


@pytest.mark.parametrize(
    ("group", "changes"),
    [
        ("optim", {"batch_size": 0}),
        ("optim", {"lr": 0.0}),
        ("lora", {"rank": 0}),
        ("lora", {"dropout": 1.0}),
        ("stream", {"buffer": 0}),
        ("loss", {"confidence": -1.0}),
        ("trainer", {"log_every": 0}),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(
    group: str, changes: dict[str, float], configure: Configure
) -> None:
    config = configure()
    config = replace(config, **{group: replace(getattr(config, group), **changes)})
    (name,) = changes
    with pytest.raises(SekdError, match=rf"{group}\.{name} is "):
        check_settings(config)


def test_states_of_another_size_are_refused(configure: Configure, store: Store) -> None:
    config = configure()
    sizes = {"n_layers": 4, "vocab_size": store.layout.vocab_size}
    with pytest.raises(SekdError, match=r"hidden states of 64, .* holds 128"):
        check_model(config, store, hidden_size=64, **sizes)
    check_model(configure(loss=loss(hidden=HiddenConfig(weight=0.0))), store, hidden_size=64, **sizes)


def test_letters_that_are_other_tokens_are_refused(store: Store, model: ModelConfig) -> None:
    swapped = replace(store.layout, letter_ids=tuple(reversed(store.layout.letter_ids)))
    with pytest.raises(SekdError, match="the teacher chose among"):
        check_letters(Prompter.named("terse"), load_processor(model).tokenizer, swapped)


def test_a_model_of_another_vocabulary_is_refused(configure: Configure, store: Store, tmp_path: Path) -> None:
    other = tiny_vlm.save_random(tmp_path / "other", vocab_size=store.layout.vocab_size + 16)
    config = configure(model=ModelConfig(name="other", path=str(other), wording="terse"))
    with pytest.raises(SekdError, match=f"vocabulary of {store.layout.vocab_size + 16}.*{store.layout.vocab_size}"):
        assemble(config, store)


def test_unknown_lora_targets_are_refused_with_the_layers_that_exist(configure: Configure, store: Store) -> None:
    with pytest.raises(SekdError, match=r"no linear layers \['query'\].*'q_proj'"):
        assemble(configure(lora=LoraSettings(targets=["query"])), store)


def test_a_student_on_top_of_an_adapter_is_refused(configure: Configure, store: Store, model: ModelConfig) -> None:
    with pytest.raises(SekdError, match="make merge"):
        assemble(configure(model=replace(model, adapter="somewhere")), store)


def test_an_unfinished_store_is_refused(configure: Configure, store: Store, tmp_path: Path) -> None:
    growing = Store.create(tmp_path, identity={"other": 1}, plan=store.plan, layout=store.layout)
    with pytest.raises(SekdError, match=r"lacks 4 of 4 shards.*make teacher"):
        assemble(configure(), growing)


def test_an_image_that_is_gone_is_named(configure: Configure, store: Store, data: DataConfig, tmp_path: Path) -> None:
    """At the start where it is among the first, else when it is met."""
    config = configure(data=replace(data, root=str(tmp_path / "world")))
    with pytest.raises(SekdError, match=r"\.jpg cannot be read as an image"):
        assemble(config, store)
    shutil.copytree(data.root, tmp_path / "world")
    _, batches = assemble(config, store)
    shutil.rmtree(tmp_path / "world")
    with pytest.raises(SekdError, match=r"\.jpg cannot be read as an image"):
        next(iter(batches.train_dataloader()))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_that_rounds_what_is_trained_is_refused(precision: str) -> None:
    with pytest.raises(SekdError, match="take bf16-mixed"):
        weights_dtype(TrainerConfig(precision=precision))
