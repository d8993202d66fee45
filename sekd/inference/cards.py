"""The GPUs of each worker process."""

import os

from sekd.errors import SekdError
from sekd.inference.config import EngineConfig
from sekd.machine import ask_driver


def cards_of_workers(engine: EngineConfig, workers: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each of ``workers`` processes; None on CPU.

    No GPU is given to two. They come from this process's CUDA_VISIBLE_DEVICES (numbers, UUIDs or MIG names), else from
    the driver's list.

    Raises:
        SekdError: there are not enough, one is named twice, or one engine is to be split over MIG slices.
    """
    if engine.device == "cpu":
        return [None] * workers
    each = engine.tensor_parallel_size
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = _visible_cards() if visible is None else _named_cards(visible)
    if each > 1 and any(name.startswith("MIG") for name in names):
        raise SekdError(
            f"CUDA_VISIBLE_DEVICES={visible}: CUDA gives a process one MIG slice, so an engine cannot be split over "
            f"{each}; set engine.tensor_parallel_size=1"
        )
    if len(names) < workers * each:
        source = "the driver lists" if visible is None else f"CUDA_VISIBLE_DEVICES={visible!r} names"
        raise SekdError(
            f"workers={workers} with engine.tensor_parallel_size={each} need {workers * each} GPUs, but {source} "
            f"{len(names)}: lower one of the two, or name more in CUDA_VISIBLE_DEVICES"
        )
    return [",".join(names[slot * each : (slot + 1) * each]) for slot in range(workers)]


def _named_cards(visible: str) -> list[str]:
    """The cards that CUDA_VISIBLE_DEVICES names. As in CUDA, an empty or negative name ends the list."""
    names: list[str] = []
    for name in (part.strip() for part in visible.split(",")):
        if not name or name.startswith("-"):
            break
        names.append(name)
    if len(set(names)) < len(names):
        raise SekdError(f"CUDA_VISIBLE_DEVICES={visible} names a GPU twice, and CUDA then shows none: name each once")
    return names


def _visible_cards() -> list[str]:
    return [str(number) for number in range(len(ask_driver("index")))]
