"""A small world, an untrained model, and one worker whose engine all tests of this folder share."""

from pathlib import Path

import pytest
from teacher_passes import Running, settings

from sekd.embedded.world import write_world
from stage1_teacher import worker as worker_module
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import prepare, run
from stage1_teacher.worker import TeacherWorker
from tools.pretrain_base.tiny_vlm import save_random

STARTED: list[TeacherWorker] = []


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), images={"train_mini": {"Fauna": 18}})


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "random", seed=2)


@pytest.fixture
def config(world: Path, model: Path, tmp_path: Path) -> TeacherConfig:
    return settings(world, model, tmp_path / "artifacts")


@pytest.fixture(scope="session")
def running(world: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """Returns the worker with a started engine, and starts it where none is."""

    def get() -> TeacherWorker:
        if not STARTED:
            job = prepare(settings(world, model, tmp_path_factory.mktemp("artifacts")))
            STARTED.append(TeacherWorker(job.config, job.store.path))
        return STARTED[-1]

    return get


@pytest.fixture
def worker(running: Running) -> TeacherWorker:
    """A worker with a started engine; tests lend it to their own passes."""
    return running()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Close the engine where a test of another folder is next: a process runs one at a time, and others need their own.

    With several pytest processes, this folder's files are not all run one after the other: a later one starts it again.
    """
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        while STARTED:
            STARTED.pop().close()


@pytest.fixture
def lent(worker: TeacherWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of this test use the shared engine instead of starting their own."""
    engine = worker._engine
    monkeypatch.setattr(worker_module, "Engine", lambda *_, **__: engine)
    monkeypatch.setattr(TeacherWorker, "close", lambda self: None)


@pytest.fixture(scope="session")
def whole(world: Path, model: Path, running: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one uninterrupted pass."""
    engine = running()._engine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "Engine", lambda *_, **__: engine)
        patch.setattr(TeacherWorker, "close", lambda self: None)
        return run(settings(world, model, tmp_path_factory.mktemp("whole"))).path
