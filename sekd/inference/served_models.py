"""vLLM's classes of models, with the interfaces for hidden states or LoRA that they lack.

Their language models (Qwen2Model, LlamaModel) can return any layer; only the interface is missing on the outer class.
Registered by ``plugin``.
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
    """LLaVA-OneVision, with LoRA as in vLLM's other LLaVA classes."""

    packed_modules_mapping = {  # noqa: RUF012 - as in vLLM's own classes
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def get_mm_mapping(self) -> MultiModelKeys:
        """Which part of the model each module belongs to; LoRA is only in the language model."""
        return MultiModelKeys.from_string_field(
            language_model="language_model", connector="multi_modal_projector", tower_model="vision_tower"
        )
