"""How the losses are weighed and what they read, on real batches of a stored pass."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hf_teacher import store_pass
from student_settings import PLAIN, Configure

from sekd.datasets import DataConfig, load_dataset
from sekd.models import ModelConfig
from sekd.store import Store
from stage2_student import losses
from stage2_student.batch import Batch
from stage2_student.config import (
    FormatConfig,
    HardConfig,
    HiddenConfig,
    LossConfig,
    SoftConfig,
    StudentConfig,
    TrainerConfig,
)
from stage2_student.data import StudentData
from stage2_student.module import StudentModule
from stage2_student.stored import Single, TeacherPath
from stage2_student.training import assemble


def weighing(
    *, hard: float = 0.0, soft: float = 0.0, hidden: float = 0.0, format: float = 0.0, **changes: Any
) -> LossConfig:
    return LossConfig(
        hard=HardConfig(hard),
        soft=changes.pop("softly", SoftConfig(soft)),
        hidden=changes.pop("hiddenly", HiddenConfig(hidden)),
        format=FormatConfig(format),
        **changes,
    )


@pytest.fixture(scope="module")
def unrounded(tmp_path_factory: pytest.TempPathFactory, model: ModelConfig, data: DataConfig) -> Store:
    """The same pass with its states in float32, to compare more closely than bfloat16 allows."""
    return store_pass(tmp_path_factory.mktemp("unrounded"), model=model, data=data, hidden_dtype="float32")


def first(config: StudentConfig, store: Store) -> tuple[StudentModule, StudentData, Batch]:
    module, data = assemble(config, store)
    return module, data, next(iter(data.train_dataloader()))


def test_the_total_is_the_weighted_sum_of_the_means_over_examples(configure: Configure, store: Store) -> None:
    loss = weighing(hard=0.5, soft=2.0, hidden=3.0, format=0.1)
    module, _, batch = first(configure(loss=loss, lora=PLAIN), store)
    got = module.training_loss(batch)
    assert got.format_M is not None
    expected = (
        0.5 * got.terms_N["hard"].mean()
        + 2.0 * got.terms_N["soft"].mean()
        + 3.0 * got.terms_N["hidden"].mean()
        + 0.1 * got.format_M.mean()
    )
    torch.testing.assert_close(got.total, expected)


def stored_paths(store: Store, batch: Batch) -> list[list[dict[str, Any]]]:
    """The rows of the batch's images, step by step, as pyarrow reads them."""
    paths: dict[str, list[dict[str, Any]]] = {}
    for shard in range(store.plan.n_shards):
        for row in store.read_targets(shard).to_pylist():
            paths.setdefault(row["image"], []).append(row)
    return [paths[name] for name in batch.names]


def sureness(path: list[dict[str, Any]], letters: Sequence[int]) -> list[float]:
    """Of each step, the probability of the answer to the step above: looked up, or at most what is left for it."""
    sure = [1.0]
    for row in path[:-1]:
        letter = letters[row["answer"]]
        if letter in row["topk_ids"]:
            logprob = row["topk_logprobs"][row["topk_ids"].index(letter)]
        else:
            logprob = min(row["tail_logprob"], min(row["topk_logprobs"]))
        sure.append(math.exp(logprob))
    return sure


def test_level_weights_and_trust_in_the_parent_scale_each_step(configure: Configure, store: Store) -> None:
    loss = weighing(hard=1.0, levels={"order": 0.0, "genus": 2.0}, confidence=0.5)
    module, _, batch = first(configure(loss=loss, lora=PLAIN), store)
    got = module.training_loss(batch)
    values = got.terms_N["hard"].view(-1, 4)  # order, family, genus, species
    trust = torch.tensor([sureness(path, store.layout.letter_ids) for path in stored_paths(store, batch)]) ** 0.5
    expected = (values * torch.tensor([0.0, 1.0, 2.0, 1.0]) * trust).sum(1).mean() / 4
    torch.testing.assert_close(got.total, expected)


def test_the_leaf_is_the_last_level_of_each_path_whatever_its_depth(
    configure: Configure, store: Store, data: DataConfig
) -> None:
    loss = weighing(hard=1.0, levels={"leaf": 3.0, "order": 0.5})
    module, loaded, _ = first(configure(loss=loss, lora=PLAIN), store)
    dataset = load_dataset(data, "train")
    example = dataset.examples[0]
    questions = tuple(dataset.questions(example))
    deep = TeacherPath(str(example.image), questions, (0, 1, 2, 3), None, None)
    shallow = replace(deep, questions=questions[:2], answers=(0, 1))
    order, species = (replace(deep, single=Single("independent", step)) for step in (0, 3))
    paths = [deep, shallow, order, species]
    got = module.training_loss(loaded.encoder.batch(paths, images=4, all_images=4, world=1))
    weights = [*(0.5 / 4, 1 / 4, 1 / 4, 3 / 4), *(0.5 / 2, 3 / 2), 0.5, 3.0]
    torch.testing.assert_close(got.total, (got.terms_N["hard"] * torch.tensor(weights)).sum() / 4)


@pytest.mark.parametrize(
    ("loss", "candidates", "states"),
    [
        (weighing(hard=1.0), False, False),
        (weighing(soft=1.0), True, False),
        (weighing(hidden=1.0), False, True),
        (weighing(softly=SoftConfig(weight=1.0, source="exact")), False, True),
        (weighing(hard=1.0, confidence=1.0), True, False),
    ],
)
def test_what_no_loss_asks_for_is_not_read(
    loss: LossConfig,
    candidates: bool,
    states: bool,
    configure: Configure,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[int] = []
    columns: list[str] = []
    chunks, targets = Store.hidden_chunks, Store.read_targets

    def note_columns(store: Store, index: int, wanted: Any = None) -> Any:
        columns.extend(wanted)
        return targets(store, index, wanted)

    monkeypatch.setattr(Store, "hidden_chunks", lambda store, index: opened.append(index) or chunks(store, index))
    monkeypatch.setattr(Store, "read_targets", note_columns)
    module, _, batch = first(configure(loss=loss), store)
    assert bool(opened) == (batch.hidden_NRD is not None) == states
    assert ("topk_ids" in columns) == (batch.candidates is not None) == candidates
    assert "truth" not in columns
    assert module.training_loss(batch).total.requires_grad


def test_a_loss_without_weight_is_not_even_computed(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("computed for nothing")

    for name in ("soft", "exact", "hidden", "chunked_hard"):
        monkeypatch.setattr(losses, name, refuse)
    module, _, batch = first(configure(loss=weighing(hard=1.0)), store)
    assert set(module.training_loss(batch).terms_N) == {"hard"}


def test_exact_equals_the_dense_kl_from_the_stored_layer_to_1e_5(configure: Configure, unrounded: Store) -> None:
    loss = weighing(softly=SoftConfig(weight=1.0, source="exact", temperature=2.0, chunk=5))
    module, _, batch = first(configure(loss=loss, lora=PLAIN), unrounded)
    student = module.student
    with torch.no_grad():
        assert batch.hidden_NRD is not None
        teacher = student.head(student.norm(batch.hidden_NRD[:, 0])) / 2
        own = student.head(student(batch).last_ND) / 2
        dense = torch.nn.functional.kl_div(
            own.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none"
        )
    torch.testing.assert_close(module.training_loss(batch).terms_N["soft"], 4 * dense.sum(-1), atol=1e-5, rtol=1e-5)


def test_the_stored_last_layer_gives_back_the_stored_candidates(configure: Configure, unrounded: Store) -> None:
    module, _, batch = first(configure(loss=weighing(soft=1.0, hidden=1.0), lora=PLAIN), unrounded)
    assert batch.hidden_NRD is not None
    assert batch.candidates is not None
    with torch.no_grad():
        logprobs = module.student.head(module.student.norm(batch.hidden_NRD[:, 0])).log_softmax(-1)
    stored = batch.candidates
    torch.testing.assert_close(logprobs.gather(1, stored.ids_NK), stored.logprobs_NK, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("after_norm", [True, False])
def test_student_states_follow_the_stores_numbering(after_norm: bool, configure: Configure, store: Store) -> None:
    """Student states that the store had recorded would have no distance from themselves."""
    hiddenly = HiddenConfig(weight=1.0, distance="mse", layers=[2, -1], after_norm=after_norm)
    module, _, batch = first(configure(loss=weighing(hiddenly=hiddenly), lora=PLAIN), store)
    states = module.student(batch, layers=(2, 4))
    own = torch.stack([states.layers[2], states.layers[4]], dim=1).detach()
    torch.testing.assert_close(module.student.norm(own[:, 1]), states.last_ND.detach())
    values = module.training_loss(replace(batch, hidden_NRD=own)).terms_N["hidden"]
    torch.testing.assert_close(values, torch.zeros_like(values), atol=1e-6, rtol=0)
    assert (module.training_loss(batch).terms_N["hidden"] > 1e-3).all()


def test_the_head_sees_the_answers_positions_alone_however_long_the_prompt(configure: Configure, store: Store) -> None:
    module, _, batch = first(configure(loss=weighing(hard=1.0, soft=1.0, format=0.1), lora=PLAIN), store)
    rows: list[tuple[int, ...]] = []
    module.student.head.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[:-1]))
    module.training_loss(batch)
    assert rows == [(len(batch.answer_positions.rows),), (len(batch.format_positions.rows),)]
    assert sum(map(sum, rows)) < batch.inputs["input_ids"].numel() / 4


def test_gathered_states_are_those_of_transformers(configure: Configure, store: Store) -> None:
    module, _, batch = first(configure(lora=PLAIN), store)
    student = module.student.eval()
    with torch.no_grad():
        states = student(batch, layers=(0, 2, 4))
        whole = student.vlm(**batch.inputs, output_hidden_states=True)
        place = (batch.answer_positions.rows, batch.answer_positions.places)
        torch.testing.assert_close(states.layers[0], whole.hidden_states[0][place])
        torch.testing.assert_close(states.layers[2], whole.hidden_states[2][place])
        torch.testing.assert_close(student.head(states.last_ND), whole.logits[place])
    predicted = batch.inputs["input_ids"][batch.answer_positions.rows, batch.answer_positions.places + 1]
    assert predicted.equal(batch.answer_positions.tokens)


def test_gradient_checkpointing_changes_no_gradient(configure: Configure, store: Store) -> None:
    hiddenly = HiddenConfig(weight=1.0, layers=[2, -1], after_norm=False)
    gradients = []
    for wanted in (False, True):
        config = configure(loss=weighing(hard=1.0, soft=1.0, hiddenly=hiddenly, format=0.1), lora=PLAIN)
        torch.manual_seed(0)
        config = replace(config, trainer=replace(config.trainer, gradient_checkpointing=wanted))
        module, _, batch = first(config, store)
        module.training_loss(batch).total.backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.requires_grad})
    assert any(value.abs().max() > 0 for value in gradients[0].values())
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)


def test_gradient_checkpointing_computes_the_decoder_twice_and_the_frozen_tower_once(
    configure: Configure, store: Store
) -> None:
    module, _, batch = first(configure(lora=PLAIN, trainer=TrainerConfig(gradient_checkpointing=True)), store)
    calls: Counter[str] = Counter()
    tower, decoder = module.student.base.model.visual.blocks, module.student.decoder.layers
    for name, layers in {"tower": tower, "decoder": decoder}.items():
        layers[0].register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    module.training_loss(batch).total.backward()
    assert calls == {"tower": 1, "decoder": 2}


def test_gradients_averaged_over_ranks_are_those_of_the_mean_over_all_their_examples(
    configure: Configure, store: Store
) -> None:
    """Four ranks share 45 examples: they cannot all hold equally many."""
    config = configure(loss=weighing(hard=1.0, format=0.1), lora=PLAIN)
    module, data = assemble(config, store)
    streams = [list(data.stream_of(rank, 4)) for rank in range(4)]
    assert len({len(batches) for batches in streams}) == 1
    batches = [stream[-1] for stream in streams]
    assert len({batch.images for batch in batches}) > 1, "the step is even: the test shows nothing"
    averaged = sum(module.training_loss(batch).total for batch in batches) / 4
    values = torch.cat([module.training_loss(batch).terms_N["hard"].view(-1, 4).mean(1) for batch in batches])
    formats = torch.cat([module.training_loss(batch).format_M.view(batch.images, -1).mean(1) for batch in batches])
    torch.testing.assert_close(averaged, values.mean() + 0.1 * formats.mean())
