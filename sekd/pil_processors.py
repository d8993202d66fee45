"""Load image processors on machines that have no torchvision, in every process that loads a model.

transformers has a PIL twin of each image processor, but some Qwen-VL modules of transformers and vLLM import the
torchvision one by name, and every Qwen-VL processor wants a video processor, which exists for torchvision alone.
This project asks about still images, so where torchvision is absent the names resolve to the PIL twins and the
video processor to one that refuses. vLLM runs this in each of its processes through the
``vllm.general_plugins`` entry point; ``sekd.models`` runs it before it loads a processor.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

QWEN2_VL = "transformers.models.qwen2_vl"


def use_pil_where_torchvision_is_absent() -> None:
    """Make Qwen-VL processors loadable for still images. Does nothing where torchvision is installed."""
    if importlib.util.find_spec("torchvision") is not None or f"{QWEN2_VL}.image_processing_qwen2_vl" in sys.modules:
        return
    from transformers import processing_utils
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as pil
    from transformers.video_processing_utils import BaseVideoProcessor

    class StillImagesOnly(BaseVideoProcessor):
        """Carries the sizes that vLLM's profiling asks for; processing a video with it is an error."""

        valid_kwargs = processing_utils.VideosKwargs  # type: ignore[assignment]
        model_input_names = ["pixel_values_videos", "video_grid_thw"]  # noqa: RUF012
        size = {"shortest_edge": 28**2, "longest_edge": 28**2}  # noqa: RUF012 - read as a plain attribute
        patch_size, merge_size, temporal_patch_size = 14, 2, 2
        fps, min_frames, max_frames = 2, 4, 768

        def __init__(self, **_: Any) -> None:
            """Takes the stored settings and needs none of them."""

        def to_dict(self) -> dict[str, Any]:
            return {}

        def preprocess(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("video input needs torchvision, which is not installed")

        __call__ = preprocess

    def still_images_only(*_: Any, **__: Any) -> StillImagesOnly:
        return StillImagesOnly()

    vars(processing_utils.transformers_module)["VideoProcessorMixin"] = StillImagesOnly
    setattr(AutoVideoProcessor, "from_pretrained", still_images_only)  # noqa: B010 - a class method, replaced
    _define(
        f"{QWEN2_VL}.image_processing_qwen2_vl",
        smart_resize=pil.smart_resize,
        Qwen2VLImageProcessor=pil.Qwen2VLImageProcessorPil,
        Qwen2VLImageProcessorKwargs=pil.Qwen2VLImageProcessorKwargs,
    )
    for family, name in (("qwen2_vl", "Qwen2VLVideoProcessor"), ("qwen3_vl", "Qwen3VLVideoProcessor")):
        module = f"transformers.models.{family}.video_processing_{family}"
        _define(module, smart_resize=pil.smart_resize, **{name: StillImagesOnly})


def _define(module_name: str, **names: Any) -> None:
    module = ModuleType(module_name)
    vars(module).update(names)
    sys.modules[module_name] = module
