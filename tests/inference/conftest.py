"""An engine for the tests of one module, over an untrained embedded model: a process runs one engine at a time."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_reference import LAYERS, picture
from PIL import Image

from sekd.inference import schedule
from sekd.inference.config import EngineConfig
from sekd.inference.engine import Engine
from sekd.models import ModelConfig
from tools.pretrain_base.tiny_vlm import save_random

SMALL = EngineConfig(kv_cache_gb=0.0625, max_num_seqs=16, max_num_batched_tokens=512, image_cache_gb=0.1)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = save_random(tmp_path_factory.mktemp("models") / "random", seed=1)
    return ModelConfig(name="random", path=str(folder), dtype="float32", wording="terse")


@pytest.fixture(scope="module")
def engine(random_model: ModelConfig) -> Iterator[Engine]:
    with Engine(random_model, SMALL, layers=LAYERS, max_lora_rank=4) as engine:
        yield engine


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    """No test sees what an earlier one left in the engine's caches."""
    if "engine" in request.fixturenames:
        request.getfixturevalue("engine").reset()


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    picture(0).save(path)
    return path


@pytest.fixture
def most_decoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Tells how many decoded images were in memory at most, and that none is left."""
    counts, read = [0], schedule.read_image

    def counted(path: Path) -> Image.Image:
        image = read(path)
        counts.append(counts[-1] + 1)
        weakref.finalize(image, lambda: counts.append(counts[-1] - 1))
        return image

    def most() -> int:
        assert counts[-1] == 0
        return max(counts)

    monkeypatch.setattr(schedule, "read_image", counted)
    return most
