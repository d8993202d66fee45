"""Which GPUs each worker gets, on machines that a stand-in for nvidia-smi describes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sekd.errors import SekdError
from sekd.inference.config import EngineConfig
from sekd.inference.local_pool import cards_of_workers
from sekd.machine import ask_driver, card_gib, engine_of_this_machine

Driver = Callable[..., None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Puts a driver on the path that answers a query with one line a card; without lines there is none."""

    def install(*lines: str) -> None:
        smi = tmp_path / "nvidia-smi"
        if lines:
            smi.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
            smi.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if lines else str(tmp_path))

    card_gib.cache_clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


def gpu(each: int = 1) -> EngineConfig:
    return EngineConfig(device="cuda", tensor_parallel_size=each)


@pytest.mark.parametrize(
    ("visible", "workers", "each", "expected"),
    [
        (None, 2, 2, ["0,1", "2,3"]),
        ("4,5,6,7", 2, 2, ["4,5", "6,7"]),
        (" 3, 1", 2, 1, ["3", "1"]),
        ("GPU-8932f937,GPU-a1", 2, 1, ["GPU-8932f937", "GPU-a1"]),
        ("MIG-GPU-8932f937/1/0,MIG-5c2f", 2, 1, ["MIG-GPU-8932f937/1/0", "MIG-5c2f"]),
        ("0,1,-1,2", 2, 1, ["0", "1"]),
    ],
)
def test_each_worker_has_cards_of_its_own(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, visible: str | None, workers: int, each: int, expected: list[str]
) -> None:
    driver("0", "1", "2", "3")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cards_of_workers(gpu(each), workers) == expected


@pytest.mark.parametrize(
    ("visible", "workers", "each", "message"),
    [
        (None, 3, 2, r"workers=3 with engine.tensor_parallel_size=2 need 6 GPUs, but the driver lists 4: lower one"),
        ("0,1", 3, 1, r"need 3 GPUs, but CUDA_VISIBLE_DEVICES='0,1' names 2"),
        ("", 2, 1, r"need 2 GPUs, but CUDA_VISIBLE_DEVICES='' names 0"),
        ("-1", 2, 1, r"CUDA_VISIBLE_DEVICES='-1' names 0"),
        ("0,-1,1", 2, 1, r"names 1"),
        ("0,1,0", 2, 1, r"names a GPU twice"),
        ("MIG-a,MIG-b", 1, 2, r"cannot be split over 2; set engine.tensor_parallel_size=1"),
    ],
)
def test_what_cannot_be_given_is_refused_in_one_sentence(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, visible: str | None, workers: int, each: int, message: str
) -> None:
    driver("0", "1", "2", "3")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(SekdError, match=message):
        cards_of_workers(gpu(each), workers)


def test_without_a_driver_there_is_no_card_to_give(driver: Driver) -> None:
    driver()
    with pytest.raises(SekdError, match="the driver lists 0"):
        cards_of_workers(gpu(), 2)


def test_one_worker_finds_its_gpu_itself_where_the_driver_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some containers lack nvidia-smi."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    assert cards_of_workers(gpu(), 1) == [None]
    for workers, each in ((2, 1), (1, 2)):
        with pytest.raises(SekdError, match="need 2 GPUs, but the driver lists 0"):
            cards_of_workers(gpu(each), workers)


def test_workers_on_cpu_take_no_card(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert cards_of_workers(EngineConfig(device="cpu"), 3) == [None] * 3


@pytest.mark.parametrize(
    ("lines", "entry"),
    [((), "cpu"), (("81559", "81559"), "gpu_80gb"), (("24564",), "gpu_24gb"), (("[N/A]",), "gpu_24gb")],
)
def test_the_engine_entry_fits_the_first_cards_memory(driver: Driver, lines: tuple[str, ...], entry: str) -> None:
    driver(*lines)
    assert engine_of_this_machine() == entry
    card_gib.cache_clear()


def test_a_driver_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexec /bin/sleep 3600\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sekd.machine.DRIVER_SECONDS", 0.2)
    with pytest.raises(SekdError, match=r"nvidia-smi did not answer within 0.2 seconds: the driver or a GPU hangs"):
        ask_driver("index")
