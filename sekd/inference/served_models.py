"""vLLM's classes of the models that could hand out hidden states or take LoRA, but do not say so.

Their forward passes return what their language model returns, and Qwen2Model and LlamaModel within hand out any layer:
only the interface is missing on the outer class. Registered by ``plugin``.
"""

from vllm.model_executor.models.interfaces import SupportsEagle3, SupportsLoRA
from vllm.model_executor.models.interns1 import InternS1ForConditionalGeneration
from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration
from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration
from vllm.model_executor.models.module_mapping import MultiModelKeys


class InternVL(InternS1ForConditionalGeneration, SupportsEagle3):
    """InternVL 2.5 and 3 as published for transformers."""


class LlavaNext(LlavaNextForConditionalGeneration, SupportsEagle3):
    """LLaVA-1.6."""


class LlavaOnevision(LlavaOnevisionForConditionalGeneration, SupportsLoRA, SupportsEagle3):
    """LLaVA-OneVision, with LoRA as vLLM's other LLaVA classes have it."""

    packed_modules_mapping = {  # noqa: RUF012 - as in vLLM's own classes
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def get_mm_mapping(self) -> MultiModelKeys:
        """Which part of the model each module belongs to; LoRA is of the language model alone."""
        return MultiModelKeys.from_string_field(
            language_model="language_model", connector="multi_modal_projector", tower_model="vision_tower"
        )
