"""Every family's teacher refuses what cannot work in one sentence, before weights are loaded or an engine starts."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from standins import FAMILIES, Photos

from sekd.errors import SekdError
from sekd.inference.config import EngineConfig
from sekd.models import ModelConfig
from stage1_teacher.config import Teacher, TeacherConfig
from stage1_teacher.generate import prepare

Refused = Callable[..., str]


@pytest.fixture(params=("qwen2_5_vl", "qwen3_vl", "internvl3", "llava_onevision", "llava1_5"))
def refused(request: pytest.FixtureRequest, photos: Photos, tmp_path: Path) -> Refused:
    """What a pass over the family's files (without weights), spoilt first, says."""

    def ask(spoil: Callable[[Path], Any] = lambda _: None, path: str | None = None, **settings: Any) -> str:
        folder = tmp_path / "model"
        folder.mkdir()
        FAMILIES[request.param](folder, "bfloat16")
        spoil(folder)
        model = ModelConfig(name=request.param, path=path or str(folder))
        config = TeacherConfig(data=photos.data, model=model, engine=EngineConfig(), artifacts=str(tmp_path / "stores"))
        with pytest.raises(SekdError) as caught:
            prepare(replace(config, **settings))
        said = str(caught.value)
        assert "\n" not in said
        assert len(said) < 600, said
        assert not (tmp_path / "stores").exists()
        return said

    return ask


def drop(*names: str) -> Callable[[Path], None]:
    """Removes files of a model, as an interrupted download leaves them."""

    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return spoil


def change(name: str, **values: Any) -> Callable[[Path], None]:
    """Changes entries of a model's JSON file."""

    def spoil(folder: Path) -> None:
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **values}))

    return spoil


def test_a_model_without_chat_template(refused: Refused) -> None:
    said = refused(drop("chat_template.json", "chat_template.jinja"))
    assert said.endswith("has no chat template: a chat model is needed")


def test_a_tokenizer_without_its_words(refused: Refused) -> None:
    said = refused(drop("tokenizer.json"))
    assert "has no words for its tokenizer: copy tokenizer.json there" in said or "sentencepiece" in said


def test_an_image_processor_that_is_not_installed(refused: Refused) -> None:
    said = refused(change("preprocessor_config.json", image_processor_type="NowhereImageProcessor"))
    assert "no processor could be loaded from" in said


def test_an_architecture_that_is_not_known(refused: Refused) -> None:
    said = refused(change("config.json", model_type="unheard_of"))
    assert re.search("no (processor|configuration) could be loaded from .*unheard_of", said)


def test_layers_that_the_model_does_not_have(refused: Refused) -> None:
    assert re.fullmatch(r"layers=\[99\]: model \w+ has decoder layers 1 to 3 \(.*\)", refused(layers=[99]))


def test_an_adapter_of_another_family(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    about = {"base_model_name_or_path": "far", "auto_mapping": {"base_model_class": "FarForConditionalGeneration"}}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    said = refused(teacher=Teacher(adapter=str(folder)))
    assert "was trained for another family of models (far, a FarForConditionalGeneration)" in said


def test_a_path_that_is_no_model(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "expected a model or adapter folder" in refused(path=str(tmp_path / "empty"))


def test_a_hub_id_without_a_network(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert "id of a model on the hub that can be reached" in refused(path="nobody/has-this-model")
