"""An engine in a process of its own, which hangs or is killed: nothing waits for it without end."""

import os
import signal
import threading
from pathlib import Path

import pytest

from sekd.errors import SekdError
from sekd.inference import engine as engine_module
from sekd.inference.config import EngineConfig
from sekd.inference.engine import Engine
from sekd.inference.requests import StepRequest
from sekd.inference.schedule import Conversation
from sekd.models import ModelConfig

APART = EngineConfig(
    in_process=False, kv_cache_gb=0.0625, max_num_seqs=4, max_num_batched_tokens=512, image_cache_gb=0.1
)


@pytest.mark.slow
def test_an_engine_that_hangs_or_is_killed_ends_the_pass(
    random_model: ModelConfig, picture_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conversation() -> Conversation[int]:
        prompt = "<|vision_start|><|image_pad|><|vision_end|>"
        [result] = yield [StepRequest(prompt, picture_file, str(picture_file))]
        return result.prompt_tokens

    with Engine(random_model, APART) as engine:
        assert next(engine.drive([conversation()])) > 1
        (process,) = engine._vllm.engine_core.resources.engine_manager.processes
        monkeypatch.setattr(engine_module, "SILENCE_SECONDS", 2.0)
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(SekdError, match=r"the engine's process was silent for 2 s; start the same command again"):
            list(engine.drive([conversation()]))
        monkeypatch.undo()
        threading.Timer(1.0, os.kill, (process.pid, signal.SIGKILL)).start()
        with pytest.raises(SekdError, match="the engine's process was ended from outside"):
            list(engine.drive([conversation()]))
