"""Load image processors on machines without torchvision.

transformers has a PIL version of each image processor, but modules of transformers and vLLM import the torchvision one
by name, and many processors need a video processor, which exists for torchvision only. Where torchvision is absent,
the torchvision modules' names resolve to their PIL versions, and every video processor to one that refuses. vLLM runs
this in each of its processes through the ``vllm.general_plugins`` entry point; ``sekd.models`` runs it before it loads
a processor.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from sekd.errors import SekdError

NEEDS_TORCHVISION = re.compile(r"transformers\.models\.\w+\.(image|video)_processing_(?!pil_)\w+")


def use_pil_where_torchvision_is_absent() -> None:
    """Make processors loadable for still images. Does nothing where torchvision is installed.

    Raises:
        SekdError: torchvision is installed, but not for this torch; transformers would load no processor.
    """
    if importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except (ImportError, OSError, RuntimeError) as error:
            raise SekdError(
                f"torchvision is installed, but does not load beside this torch ({error}): `uv pip uninstall "
                "torchvision torchaudio torchcodec`; nothing here needs them"
            ) from error
        return
    if any(isinstance(one, PilFinder) for one in sys.meta_path):
        return
    from transformers import processing_utils
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.video_processing_utils import BaseVideoProcessor

    class StillImagesOnly(BaseVideoProcessor):
        """Holds the sizes that vLLM's profiling reads; processing a video with it is an error."""

        valid_kwargs = processing_utils.VideosKwargs  # type: ignore[assignment]
        model_input_names = ["pixel_values_videos", "video_grid_thw"]  # noqa: RUF012
        size = {"shortest_edge": 64**2, "longest_edge": 128**2}  # noqa: RUF012 - read as a plain attribute
        patch_size, merge_size, temporal_patch_size = 14, 2, 2
        fps, min_frames, max_frames = 2, 4, 768

        def __init__(self, **_: Any) -> None: ...

        def to_dict(self) -> dict[str, Any]:
            return {}

        def preprocess(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("video input needs torchvision, which is not installed")

        __call__ = preprocess

    def still_images_only(*_: Any, **__: Any) -> StillImagesOnly:
        return StillImagesOnly()

    vars(processing_utils.transformers_module)["VideoProcessorMixin"] = StillImagesOnly
    setattr(AutoVideoProcessor, "from_pretrained", still_images_only)  # noqa: B010 - a class method, replaced
    # The package's namespace holds a class that raises ImportError, which vLLM may have imported already.
    # Looked up in sys.modules, since importing processing_utils replaces the package's module object.
    for name in ("transformers", "vllm.transformers_utils.processor"):
        if name in sys.modules:
            vars(sys.modules[name])["AutoVideoProcessor"] = AutoVideoProcessor
    sys.meta_path.insert(0, PilFinder(StillImagesOnly))


class PilFinder(MetaPathFinder, Loader):
    """Finds the modules of transformers that need torchvision, and fills them with the PIL version's names.

    Args:
        video_processor: the class that every video processor's name resolves to.
    """

    def __init__(self, video_processor: type) -> None:
        self._video_processor = video_processor

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        found = NEEDS_TORCHVISION.fullmatch(name)
        if found is None or (found[1] == "image" and importlib.util.find_spec(_pil_module(name)) is None):
            return None
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """Use Python's default module."""

    def exec_module(self, module: ModuleType) -> None:
        if ".video_processing_" in module.__name__:
            vars(module)["__getattr__"] = self._video_name
            return
        for name, value in vars(importlib.import_module(_pil_module(module.__name__))).items():
            if not name.startswith("__"):
                vars(module)[name.removesuffix("Pil")] = value

    def _video_name(self, name: str) -> Any:
        if name == "smart_resize":  # some families define it in the video processor's module
            from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

            return smart_resize
        if name.endswith("VideoProcessor"):
            return self._video_processor
        raise AttributeError(f"{name} needs torchvision, which is not installed")


def _pil_module(module: str) -> str:
    return module.replace(".image_processing_", ".image_processing_pil_")
