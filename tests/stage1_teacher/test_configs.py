"""Every configuration in ``conf`` composes into the typed tree."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sekd.errors import SekdError
from sekd.inference.config import COUNTS
from sekd.machine import engine_of_this_machine
from stage1_teacher import __main__  # noqa: F401 - registers the schema
from stage1_teacher.config import TeacherConfig

CONF = Path(__file__).parents[2] / "conf"


def composed(*overrides: str) -> TeacherConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        config = OmegaConf.to_object(compose("teacher", list(overrides)))
    assert isinstance(config, TeacherConfig)
    return config


@pytest.mark.parametrize("group", ["data", "model", "engine"])
def test_every_entry_composes(group: str) -> None:
    names = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    assert len(names) >= 3
    for name in names:
        assert getattr(composed(f"{group}={name}"), group).name


def test_the_default_is_the_embedded_demo_on_this_machine() -> None:
    config = composed()
    assert (config.data.name, config.model.name) == ("demo", "tiny")
    assert config.engine.name == engine_of_this_machine()
    assert config.layers == [-1]


def test_the_adapter_that_teaches_is_part_of_the_model_that_answers() -> None:
    config = composed("teacher.adapter=runs/one/adapter")
    assert config.taught_by.adapter == "runs/one/adapter"
    assert config.adapter == Path("runs/one/adapter")
    assert composed().adapter is None


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(Exception, match=r"engine\.speed"):
        composed("engine.speed=high")


@pytest.mark.parametrize("count", COUNTS)
def test_an_engine_of_none_is_refused_by_name_before_it_starts(count: str) -> None:
    with pytest.raises(SekdError, match=rf"^engine\.{count}=0: expected at least 1$"):
        composed(f"engine.{count}=0")
    assert getattr(composed(f"engine.{count}=1").engine, count) == 1


def test_an_engine_on_a_device_that_there_is_not_is_refused() -> None:
    with pytest.raises(SekdError, match=r"^engine\.device=tpu: expected cpu or cuda$"):
        composed("engine.device=tpu")
