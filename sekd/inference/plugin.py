"""What vLLM runs in each of its processes, by the entry point ``vllm.general_plugins``, before it looks at a model."""

import multiprocessing
import os
import threading

from sekd.pil_processors import use_pil_where_torchvision_is_absent

# Architectures that vLLM serves, of whose classes ``served_models`` has one with more interfaces.
SERVED_MODELS = {
    "InternVLForConditionalGeneration": "InternVL",
    "LlavaNextForConditionalGeneration": "LlavaNext",
    "LlavaOnevisionForConditionalGeneration": "LlavaOnevision",
}
ENGINE_CORE = "EngineCore"  # how vLLM names the process that runs an engine's core
WATCHER = "ends-with-parent"


def end_with_parent() -> None:
    """From now on this process ends when the one that started it does.

    An engine's core does not notice that by itself: it would wait for requests for ever, and keep the GPU's memory from
    the next run.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == WATCHER for thread in threading.enumerate()):
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name=WATCHER, daemon=True).start()


def load() -> None:
    """Processors load without torchvision, models hand out hidden states and take LoRA, and no process of an engine
    outlives the one that started it. May be called again."""
    use_pil_where_torchvision_is_absent()
    if multiprocessing.current_process().name.startswith(ENGINE_CORE):
        end_with_parent()
    from vllm import ModelRegistry

    for architecture, name in SERVED_MODELS.items():
        ModelRegistry.register_model(architecture, f"sekd.inference.served_models:{name}")
