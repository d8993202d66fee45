"""LoRA adapters on disk, as the engine needs to know them before it starts."""

import json
from pathlib import Path

from sekd.errors import SekdError


def adapter_rank(adapter: Path) -> int:
    """The rank that the engine must be started with to serve an adapter.

    Raises:
        SekdError: the folder holds no adapter.
    """
    file = adapter / "adapter_config.json"
    if not file.is_file():
        raise SekdError(f"{adapter} is no LoRA adapter: expected adapter_config.json in it, as `make student` writes")
    return int(json.loads(file.read_text())["r"])
