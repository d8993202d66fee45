"""What a run leaves loads elsewhere as it is, and answers as the student did."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from student_settings import Configure
from test_training import run_of

from sekd.datasets import load_dataset
from sekd.embedded import BASE
from sekd.errors import SekdError
from sekd.models import ModelConfig, load_processor, load_vlm
from sekd.prompts import Prompter
from sekd.store import Store
from stage2_student.config import LoraSettings, StudentConfig
from stage2_student.decode import Prompts, answer, scored
from stage2_student.encode import Encoder
from stage2_student.merge import MERGED, merge
from stage2_student.model import Student
from stage2_student.runs import RunFolder

LORA = LoraSettings(rank=4, alpha=8, dropout=0.1)


def trained_by_chance(config: StudentConfig) -> Student:
    """A student whose adapter does something, without the time that training takes."""
    student = Student(load_vlm(config.model), LORA)
    torch.manual_seed(0)
    for name, weights in student.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.05)
    return student.eval()


@pytest.fixture
def config(configure: Configure) -> StudentConfig:
    return configure(lora=LORA)


@pytest.fixture
def run(config: StudentConfig, store: Store) -> RunFolder:
    return run_of(config, store)


@pytest.fixture
def student(config: StudentConfig, run: RunFolder) -> Student:
    student = trained_by_chance(config)
    weights = {f"student.{name}": value for name, value in student.named_parameters() if value.requires_grad}
    student.save(weights, run.adapter, base=config.model.path)
    return student


def prompts(config: StudentConfig) -> Prompts:
    encoder = Encoder(config.model, Path(config.data.root))
    return Prompts(load_dataset(config.data, "val"), encoder, images=6, batch_size=6)


def logits(model: torch.nn.Module, config: StudentConfig) -> torch.Tensor:
    (asked,) = prompts(config)
    with torch.no_grad():
        return model(**asked.inputs).logits


def test_the_adapter_loads_in_transformers_as_it_is(student: Student, run: RunFolder, config: StudentConfig) -> None:
    base = load_vlm(config.model)
    before = logits(base, config)
    loaded = PeftModel.from_pretrained(base, str(run.adapter)).eval()
    torch.testing.assert_close(logits(loaded, config), logits(student.vlm, config), atol=1e-5, rtol=1e-5)
    assert (logits(loaded, config) - before).abs().max() > 0.1


def test_only_the_language_model_is_adapted(student: Student) -> None:
    trained = [name for name, weights in student.named_parameters() if weights.requires_grad]
    assert all(".language_model." in name and "lora_" in name for name in trained)
    assert len(trained) == 2 * 7 * student.n_layers


def test_the_merged_model_answers_as_the_student(student: Student, run: RunFolder, config: StudentConfig) -> None:
    folder = merge(run.path)
    merged = ModelConfig(name="merged", path=str(folder), wording="terse")
    torch.testing.assert_close(logits(load_vlm(merged), config), logits(student.vlm, config), atol=1e-4, rtol=1e-4)
    assert load_processor(merged).tokenizer.get_vocab() == load_processor(config.model).tokenizer.get_vocab()


def test_a_merge_that_is_cut_off_leaves_no_half_model(
    student: Student, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.copy", killed)
    with pytest.raises(KeyboardInterrupt):
        merge(run.path)
    folder = run.path / MERGED
    assert not folder.exists() or (folder / "tokenizer.json").is_file()


def test_merging_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SekdError, match="holds no student"):
        merge(tmp_path)


@pytest.mark.slow
def test_the_adapter_scores_the_same_in_vllm_as_in_transformers(configure: Configure, store: Store) -> None:
    """On the shipped model: an untrained one has nothing to say, and so nothing to say otherwise."""
    from sekd.inference.config import EngineConfig
    from sekd.inference.engine import Engine
    from sekd.inference.requests import StepRequest

    config = configure(lora=LORA, model=ModelConfig(name="tiny", path=str(BASE), wording="terse", dtype="float32"))
    student, run = trained_by_chance(config), run_of(config, store)
    weights = {f"student.{name}": value for name, value in student.named_parameters() if value.requires_grad}
    student.save(weights, run.adapter, base=config.model.path)
    processor, prompter = load_processor(config.model), Prompter.named(config.model.wording)
    (asked,) = prompts(config)
    expected = answer(student.vlm, processor.tokenizer, asked)
    with student.vlm.disable_adapter():
        assert answer(student.vlm, processor.tokenizer, asked) != expected, "the adapter changes no answer"
    dataset = load_dataset(config.data, "val")

    def conversation(number: int):  # type: ignore[no-untyped-def]
        example = dataset.examples[number]
        text = prompter.render(processor, prompter.joint(dataset.questions(example)))
        image = dataset.image_path(example)
        (result,) = yield [StepRequest(text, image, str(image), None, max_tokens=asked.max_new_tokens)]
        return number, result.text

    settings = EngineConfig(kv_cache_gb=0.0625, max_num_seqs=16, max_num_batched_tokens=512, image_cache_gb=0.1)
    with Engine(config.model, settings, layers=(), adapter=run.adapter, max_lora_rank=4) as engine:
        replies = dict(engine.drive([conversation(number) for number in range(len(expected))]))
    got = [replies[number] for number in range(len(expected))]
    assert [text.split() for text in got] == [text.split() for text in expected]
    scores = scored(expected, asked.questions)
    assert scored(got, asked.questions) == scores
    assert scores["parse_failures"] < 100, "nothing was answered: the scores show nothing"
