"""Which entry of ``conf/engine`` fits the machine."""

import shutil
import subprocess
from functools import cache

LARGE_GIB = 64


@cache
def engine_of_this_machine() -> str:
    """ "gpu_80gb", "gpu_24gb" or "cpu", by the memory of the first NVIDIA card. Asks the driver, imports nothing."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return "cpu"
    query = [smi, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    if not answer:
        return "cpu"
    return "gpu_80gb" if int(answer[0]) >= LARGE_GIB * 1024 else "gpu_24gb"


def register() -> None:
    """Make ``${engine_of_this_machine:}`` known to Hydra, for the defaults lists in ``conf``."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("engine_of_this_machine", engine_of_this_machine, replace=True)
