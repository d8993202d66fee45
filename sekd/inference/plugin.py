"""What vLLM runs in each of its processes, by the entry point ``vllm.general_plugins``, before it looks at a model."""

from sekd.pil_processors import use_pil_where_torchvision_is_absent

# Architectures that vLLM serves, of whose classes ``served_models`` has one with more interfaces.
SERVED_MODELS = {
    "InternVLForConditionalGeneration": "InternVL",
    "LlavaNextForConditionalGeneration": "LlavaNext",
    "LlavaOnevisionForConditionalGeneration": "LlavaOnevision",
}


def load() -> None:
    """Processors load without torchvision, and models hand out hidden states and take LoRA. May be called again."""
    use_pil_where_torchvision_is_absent()
    from vllm import ModelRegistry

    for architecture, name in SERVED_MODELS.items():
        ModelRegistry.register_model(architecture, f"sekd.inference.served_models:{name}")
