"""Other requests about the batch's images, whose replies begin as the base's do."""

from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from student_settings import Configure
from test_export import trained_by_chance

from sekd.datasets import load_dataset
from sekd.errors import SekdError
from sekd.models import load_processor, load_vlm
from sekd.prompts import Prompter, request
from sekd.store import Store
from stage2_student.batch import Batch
from stage2_student.checks import check_settings
from stage2_student.config import RehearsalConfig, StudentConfig, TrainerConfig
from stage2_student.encode import read_image
from stage2_student.objective import Objective
from stage2_student.order import Run
from stage2_student.runs import digest
from stage2_student.stored import Reader, SplitView
from stage2_student.training import assemble

WORDS = ["describe", "lineage"]
ASKED = RehearsalConfig(requests=WORDS, images=3)


def first_batch(config: StudentConfig, store: Store) -> Batch:
    _, data = assemble(config, store)
    return next(iter(data.train_dataloader()))


def test_their_loss_is_the_divergence_from_the_base_where_the_reply_begins(configure: Configure, store: Store) -> None:
    """Against logits of transformers, each image asked by itself, with the adapter and without."""
    config = configure(rehearsal=ASKED)
    batch = first_batch(config, store)
    assert batch.requests is not None
    student = trained_by_chance(config)
    objective = Objective(config.loss, n_layers=student.n_layers)
    with torch.no_grad():
        states = student(batch, layers=objective.student_layers)
        got = objective(states, batch, head=student.head, norm=student.norm).requests_A
    assert got is not None

    processor, base = load_processor(config.model), load_vlm(config.model)
    prompter = Prompter.named(config.model.wording)
    for row, name in enumerate(batch.names[:3]):
        image = read_image(load_dataset(config.data, "train").root / name)
        said = processor.tokenizer.decode(batch.requests.inputs["input_ids"][row]).split()
        replies = {}
        for word in WORDS:
            text = prompter.render(processor, request(word))
            inputs = processor(text=[text], images=[image], return_tensors="pt")
            with torch.no_grad():
                logits = [vlm(**inputs).logits[0, -1].log_softmax(-1) for vlm in (student.vlm, base)]
            replies[word] = torch.nn.functional.kl_div(*logits, log_target=True, reduction="sum")
        (asked,) = set(WORDS) & set(said)
        torch.testing.assert_close(got[row], replies.pop(asked), rtol=1e-3, atol=1e-5)
        (other,) = replies.values()
        assert not torch.isclose(got[row], other, rtol=1e-3, atol=1e-5), "the requests do not differ"
        assert got[row] > 1e-3, "the adapter changes nothing here: the comparison shows nothing"


def test_the_adapter_is_back_and_learns_after_its_base_was_asked(configure: Configure, store: Store) -> None:
    config = configure(rehearsal=ASKED)
    batch = first_batch(config, store)
    student = trained_by_chance(config)
    expected = student(replace(batch, requests=None)).last_ND
    states = student(batch)
    torch.testing.assert_close(states.last_ND, expected)
    assert states.replies is not None
    of_student, of_base = states.replies
    assert of_student.requires_grad
    assert not of_base.requires_grad
    assert all(weights.requires_grad for name, weights in student.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_a_request_counts_as_much_as_so_many_paths(configure: Configure, store: Store, weight: float) -> None:
    module, data = assemble(configure(rehearsal=replace(ASKED, weight=weight)), store)
    batch = next(iter(data.train_dataloader()))
    own = torch.Generator().manual_seed(0)
    for name, weights in module.named_parameters():
        if "lora_B" in name:  # zero at first: the student is the base
            torch.nn.init.normal_(weights, std=0.05, generator=own)
    module.eval()
    with_requests = module.training_loss(batch)
    without = module.training_loss(replace(batch, requests=None))
    assert with_requests.requests_A is not None
    expected = weight * with_requests.requests_A.sum() / batch.images
    assert expected > 1e-3, "the adapter changes nothing here: the comparison shows nothing"
    torch.testing.assert_close(with_requests.total - without.total, expected, atol=1e-5, rtol=1e-4)


def test_a_run_from_before_requests_had_a_weight_is_one_of_weight_one(configure: Configure) -> None:
    now = asdict(configure())
    before = now | {"rehearsal": {name: value for name, value in now["rehearsal"].items() if name != "weight"}}
    assert digest(before) == digest(now)
    assert digest(before) != digest(now | {"rehearsal": now["rehearsal"] | {"weight": 2.0}})


def test_they_are_put_to_the_first_images_of_every_batch_and_each_has_its_turn(
    configure: Configure, store: Store
) -> None:
    _, data = assemble(configure(rehearsal=ASKED), store)
    batches = list(data.train_dataloader())
    tokenizer = data.encoder.tokenizer
    asked: dict[str, set[str]] = {}
    for batch in batches:
        assert batch.requests is not None
        for name, ids in zip(batch.names[:3], batch.requests.inputs["input_ids"], strict=True):
            asked.setdefault(name, set()).update(set(tokenizer.decode(ids).split()) & set(WORDS))
    assert all(len(words) == 1 for words in asked.values()), "an image keeps its request in every epoch"
    assert set.union(*asked.values()) == set(WORDS)


def test_any_image_of_a_batch_may_be_asked_about_not_only_the_shortest(configure: Configure, store: Store) -> None:
    """A batch of similar lengths comes with the shortest first."""
    _, data = assemble(configure(rehearsal=replace(ASKED, images=1)), store)
    view = SplitView(store)
    paths = list(Reader(view, open_shards=1).read((Run(0, 0, view.counts()[0]),)))
    places = Counter()
    for start in range(len(paths) - 3):
        images = [path.image for path in paths[start : start + 4]]
        for _ in range(2):
            batch = data.encoder.batch(paths[start : start + 4], images=4, all_images=4, world=1)
            assert set(batch.names) == set(images)
            places[images.index(batch.names[0])] += 1
    assert set(places) == {0, 1, 2, 3}
    assert all(count % 2 == 0 for count in places.values()), "the same batch is asked in another way each time"
    _, all_asked = assemble(configure(rehearsal=replace(ASKED, images=4)), store)
    batch = all_asked.encoder.batch(paths[:4], images=4, all_images=4, world=1)
    assert batch.names == tuple(path.image for path in paths[:4])


def test_a_student_that_is_asked_replies_more_like_its_base(configure: Configure, store: Store) -> None:
    divergence = {}
    for name, rehearsal in {"asked": replace(ASKED, images=8), "not_asked": RehearsalConfig()}.items():
        config = configure(rehearsal=rehearsal, name=name)
        config = replace(config, optim=replace(config.optim, epochs=8))  # fewer do not yet separate every seed
        torch.manual_seed(config.seed)  # the adapter's first weights
        module, data = assemble(config, store)
        batch = first_batch(configure(rehearsal=ASKED), store)
        optimizer = torch.optim.AdamW([w for w in module.parameters() if w.requires_grad], lr=1e-2)
        for own in data.train_dataloader():
            optimizer.zero_grad()
            module.training_loss(own).total.backward()
            optimizer.step()
        reached = module.training_loss(batch).requests_A
        assert reached is not None
        divergence[name] = reached.mean().item()
    assert divergence["asked"] < divergence["not_asked"] / 2


def count_images(vlm: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images every later call of the tower gets."""
    seen: list[int] = []
    ordinary = vlm.model.get_image_features

    def counted(pixels: torch.Tensor, *, image_grid_thw: torch.Tensor, **options: Any) -> Any:
        seen.append(len(image_grid_thw))
        return ordinary(pixels, image_grid_thw=image_grid_thw, **options)

    monkeypatch.setattr(vlm.model, "get_image_features", counted)
    return seen


def test_the_tower_computes_an_image_once_a_step_however_many_prompts_are_about_it(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data = assemble(configure(rehearsal=ASKED, trainer=TrainerConfig(gradient_checkpointing=True)), store)
    batch = next(iter(data.train_dataloader()))
    seen = count_images(module.student.base, monkeypatch)
    tower, decoder = module.student.base.model.visual.blocks, module.student.decoder.layers
    calls: Counter[str] = Counter()
    for name, layers in {"tower": tower, "decoder": decoder}.items():
        layers[0].register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    module.training_loss(batch).total.backward()
    assert seen == [len(batch.names)]
    # The decoder: path, request and the base's reply, and the first two again in the backward pass.
    assert calls == {"tower": 1, "decoder": 5}


def test_single_questions_are_those_of_an_independent_pass_about_the_image_and_every_level_has_its_turn(
    configure: Configure, store: Store
) -> None:
    config = configure(rehearsal=RehearsalConfig(requests=["independent", "describe"], images=8))
    _, data = assemble(config, store)
    dataset = load_dataset(config.data, "train")
    questions = {example.image.as_posix(): dataset.questions(example) for example in dataset.examples}
    processor, prompter = data.encoder._processor, Prompter.named(config.model.wording)
    levels: set[int] = set()
    for batch in data.train_dataloader():
        assert batch.requests is not None
        rows = zip(batch.requests.inputs["input_ids"], batch.requests.replies_A.tolist(), strict=True)
        for name, (ids, reply) in zip(batch.names, rows, strict=False):
            image = read_image(dataset.root / name)
            prompts = [prompter.independent(questions[name], step) for step in range(len(questions[name]))]
            texts = [prompter.render(processor, prompt) for prompt in [*prompts, request("describe")]]
            alone = [processor(text=[text], images=[image])["input_ids"][0] for text in texts]
            (asked,) = (step for step, expected in enumerate(alone) if list(expected) == ids[: reply + 1].tolist())
            levels.add(asked)
    assert levels == set(range(len(prompts) + 1)), "every level, and the other request"


def test_nothing_else_is_asked_by_default(configure: Configure, store: Store) -> None:
    config = configure()
    assert first_batch(config, store).requests is None


def test_at_least_one_image_is_asked_about_and_counts(configure: Configure) -> None:
    with pytest.raises(SekdError, match=r"rehearsal\.images is at least 1, not 0"):
        check_settings(configure(rehearsal=RehearsalConfig(requests=WORDS, images=0)))
    with pytest.raises(SekdError, match=r"rehearsal\.weight is above 0, not 0\.0"):
        check_settings(configure(rehearsal=RehearsalConfig(requests=WORDS, weight=0.0)))


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (["describe", " "], "a request is a prompt, not empty"),
        (["conditioned"], "'conditioned' would be asked as a prompt of that word; independent alone"),
        (["Independent"], "'Independent' would be asked as a prompt of that word"),
        (["Describe this image."], r"'Describe this image\.' holds <\|unknown\|> as model tiny reads it"),
        (["<|image_pad|> describe"], r"holds <\|image_pad\|> as model tiny reads it"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    configure: Configure, store: Store, requests: list[str], message: str
) -> None:
    with pytest.raises(SekdError, match=message):
        assemble(configure(rehearsal=RehearsalConfig(requests=requests)), store)
