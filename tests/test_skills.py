"""What the embedded student forgot, measured against the base's skills."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model

from sekd.embedded import BASE
from sekd.embedded.kingdoms import IN_DOMAIN, KINGDOMS, UNSEEN
from sekd.embedded.skills import METRICS, captions, kingdoms, measure_skills
from sekd.embedded.world import write_world
from sekd.errors import SekdError
from sekd.evaluation.general.outcome import read_outcomes
from sekd.models import ModelConfig, load_vlm

TREES = (*IN_DOMAIN, *UNSEEN)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), images={"test": dict.fromkeys(TREES, 12)})


def train(run: Path, *, noise: float, model: ModelConfig | None = None) -> Path:
    """A run with one student: its adapter is noise of the given size."""
    torch.manual_seed(0)
    model = model or ModelConfig(name="tiny", path=str(BASE), wording="terse")
    vlm = get_peft_model(load_vlm(ModelConfig(name="tiny", path=str(BASE))), LoraConfig(target_modules=["o_proj"]))
    for name, weights in vlm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=noise) if noise else torch.nn.init.zeros_(weights)
    vlm.save_pretrained(run / "seed0" / "adapter")
    (run / "seed0" / "config.yaml").write_text(yaml.safe_dump({"model": asdict(model)}))
    return run


def test_the_base_has_every_skill_and_an_adapter_of_zeros_forgets_nothing(world: Path, tmp_path: Path) -> None:
    outcomes = measure_skills(train(tmp_path, noise=0), kingdoms(world))
    assert {each.task for each in outcomes} == {f"{skill}, {tree}" for skill in METRICS for tree in TREES}
    for each in outcomes:
        assert (each.difference, each.low, each.high, each.samples) == (0, 0, 0, 12)
        assert each.base > (95 if "single" not in each.task else 60)
    assert read_outcomes(tmp_path) == outcomes


def test_an_adapter_of_noise_forgets(world: Path, tmp_path: Path) -> None:
    outcomes = measure_skills(train(tmp_path, noise=2), kingdoms(world)[:1])
    assert all(each.high is not None and each.high < 0 for each in outcomes)


def test_a_caption_is_the_kingdom_and_what_is_drawn() -> None:
    words = captions()
    assert len(words) == sum(4 ** len(kingdom.attributes) for kingdom in KINGDOMS.values())
    assert words["Fauna", "Keviformes", "Sezidae", "Rokus", "gilensis"] == ["Fauna", "red", "disc", "striped", "spiked"]


def test_skills_are_those_of_the_embedded_base_only(tmp_path: Path) -> None:
    with pytest.raises(SekdError, match="holds no adapter: `make student`"):
        measure_skills(tmp_path, [])
    run = train(tmp_path / "other", noise=0, model=ModelConfig(name="mine", path=str(tmp_path), wording="terse"))
    with pytest.raises(SekdError, match=r"not trained from the embedded model.*make general TASKS="):
        measure_skills(run, [])
