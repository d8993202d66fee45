"""What the engine finds set when it starts."""

import subprocess
import sys

import pytest

from sekd.errors import SekdError
from sekd.inference.config import EngineConfig
from sekd.inference.engine import prepare_environment
from sekd.models import ModelConfig

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


def test_an_engine_for_a_gpu_is_refused_before_the_model_is_read_where_the_installed_build_is_for_the_cpu() -> None:
    model = ModelConfig(name="any", path="nowhere")
    prepare_environment(model, EngineConfig())
    from vllm.platforms import current_platform

    from sekd.inference.settings import build

    if current_platform.device_type == "cuda":
        pytest.skip("the installed build is for a GPU")
    with pytest.raises(SekdError, match=r"engine\.device=cuda, but the vLLM .* on cpu: set engine=\w+, or install"):
        build(model, EngineConfig(device="cuda"), layers=(), max_lora_rank=0, slots=1)
