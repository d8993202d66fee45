"""Fixtures that several test folders share: stand-ins of the released models, and photos."""

import shutil
from collections.abc import Iterator

import pytest
from standins import Photos, Standin, build, write_photos

from sekd.models import ModelConfig


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
