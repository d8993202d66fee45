"""What the engine finds set when it starts."""

import subprocess
import sys

PREPARED = """
import torch
torch.set_num_threads(3)  # as a machine of three cores would have it
from sekd.inference.config import EngineConfig
from sekd.inference.engine import prepare_environment
from sekd.models import ModelConfig
prepare_environment(ModelConfig(name="any", path="any"), EngineConfig(threads=2))
print(torch.get_num_threads())
"""


def test_an_engine_takes_its_threads_and_no_more_though_torch_was_imported_before() -> None:
    """Several engines on one machine that each take all its cores are many times slower than with a core each."""
    done = subprocess.run([sys.executable, "-c", PREPARED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]
