"""What several test folders share: stand-ins of the released models, photos, and the settings of property tests."""

import shutil
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from standins import Photos, Standin, build, write_photos

from sekd.models import ModelConfig

# Property tests judge content, not the speed of a busy machine.
settings.register_profile("tests", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    """``standin(family, dtype)``: a stand-in's configuration. Its folder is written once a session and deleted at its
    end.
    """
    root = tmp_path_factory.mktemp("standins")
    built: dict[tuple[str, str], ModelConfig] = {}

    def get(family: str, dtype: str = "float32") -> ModelConfig:
        if (family, dtype) not in built:
            built[family, dtype] = build(family, root / f"{family}-{dtype}", dtype=dtype)
        return built[family, dtype]

    yield get
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """A photo of each kind that decodes."""
    return write_photos(tmp_path_factory.mktemp("photos"))
