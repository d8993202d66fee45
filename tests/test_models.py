"""A model that cannot be used is refused in one sentence, before any work is done."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from standins import Standin

from sekd.errors import SekdError
from sekd.models import ModelConfig, load_processor, model_identity


@pytest.fixture
def spoilt(standin: Standin, tmp_path: Path) -> ModelConfig:
    """A copy of a LLaVA-OneVision without its weights, for a test to spoil."""
    model = standin("llava_onevision", "bfloat16")
    folder = tmp_path / "spoilt"
    shutil.copytree(model.path, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return replace(model, path=str(folder))


def test_a_bound_that_the_processor_does_not_have_is_refused_and_the_right_one_named(standin: Standin) -> None:
    internvl, qwen = standin("internvl3", "bfloat16"), standin("qwen2_5_vl", "bfloat16")
    with pytest.raises(SekdError, match=r"model\.max_pixels=9: .* of model internvl3 .*it takes model\.max_tiles"):
        load_processor(replace(internvl, max_pixels=9))
    with pytest.raises(SekdError, match=r"model\.max_tiles=9: .*it takes model\.min_pixels and model\.max_pixels"):
        load_processor(replace(qwen, max_tiles=9))
    with pytest.raises(SekdError, match=r"model\.max_pixels=9: .*the model fixes"):
        load_processor(replace(standin("llava_onevision", "bfloat16"), max_pixels=9))


def test_the_bound_that_it_has_is_kept_and_part_of_the_identity(standin: Standin) -> None:
    internvl = standin("internvl3", "bfloat16")
    fewer = replace(internvl, max_tiles=4)
    assert load_processor(fewer).image_processor.max_patches == 4
    assert model_identity(fewer) != model_identity(internvl)


def test_a_model_without_chat_template_is_refused(spoilt: ModelConfig) -> None:
    Path(spoilt.path, "chat_template.json").unlink()
    with pytest.raises(SekdError, match="has no chat template: a chat model is needed"):
        load_processor(spoilt)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(SekdError, match="no processor could be loaded from"):
        load_processor(ModelConfig(name="notes", path=str(tmp_path)))
    with pytest.raises(SekdError, match="expected a model or adapter folder"):
        model_identity(ModelConfig(name="notes", path=str(tmp_path)))


def test_a_processor_that_needs_what_is_not_installed_is_refused(spoilt: ModelConfig) -> None:
    file = Path(spoilt.path, "preprocessor_config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_processor_type": "NowhereImageProcessor"}))
    with pytest.raises(SekdError, match="no processor could be loaded from"):
        load_processor(spoilt)


def test_a_hub_id_without_a_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = ModelConfig(name="far", path="nobody/has-this-model")
    for use in (load_processor, model_identity):
        with pytest.raises(SekdError, match="that can be reached"):
            use(model)
