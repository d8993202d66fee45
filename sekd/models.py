"""A vision-language model as configured: how its processor and weights load, and what identifies it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from sekd.errors import SekdError
from sekd.pil_processors import use_pil_where_torchvision_is_absent

WEIGHT_FILES = ("*.safetensors", "*.bin")
PROCESSOR_FILES = ("*token*", "vocab*", "merges.txt", "*chat_template*", "*processor_config.json")
# Our settings that bound an image, and their names in transformers' image processors.
SETTINGS = {"min_pixels": "min_pixels", "max_pixels": "max_pixels", "max_tiles": "max_patches"}
EMBEDDED = ("sekd/embedded/base", "sekd/embedded/forest_base")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass
class ModelConfig:
    """One entry of ``conf/model``.

    ``path`` is a local folder or a hub id; ``dtype`` is torch's name or "auto". ``min_pixels`` and ``max_pixels`` bound
    an image where the processor resizes it freely (Qwen-VL), ``max_tiles`` where it cuts it into tiles of one size
    (InternVL). A bound that the processor does not have is an error.
    """

    name: str
    path: str
    revision: str | None = None
    dtype: str = "auto"
    adapter: str | None = None
    wording: str = "taxonomist"
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_tiles: int | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        # The embedded models are in the package, wherever a command runs and wherever a run was recorded.
        for embedded in EMBEDDED:
            if self.path.endswith(embedded) and not Path(self.path).is_dir():
                self.path = str(Path(__file__).parents[1] / embedded)


def load_processor(model: ModelConfig) -> Any:
    """The model's processor with PIL image processing, so that both stages see the same pixels on every machine.

    Raises:
        SekdError: the folder or hub id holds no processor or no chat template, cannot be reached, needs a package that
            is not installed, or the processor lacks a bound that is set.
    """
    use_pil_where_torchvision_is_absent()
    from transformers import AutoImageProcessor, AutoProcessor

    source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        processor = AutoProcessor.from_pretrained(model.path, **source)
        processor.image_processor = AutoImageProcessor.from_pretrained(
            model.path, backend="pil", **source, **image_bounds(model)
        )
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise unreadable(model, "processor", error) from error
    known = type(processor.image_processor).valid_kwargs.__annotations__
    for setting, name in SETTINGS.items():
        if getattr(model, setting) is not None and name not in known:
            others = [f"model.{other}" for other, taken in SETTINGS.items() if taken in known]
            instead = f"it takes {' and '.join(others)}" if others else "the model fixes an image's size itself"
            raise SekdError(
                f"model.{setting}={getattr(model, setting)}: {type(processor.image_processor).__name__} of model "
                f"{model.name} has no such bound; {instead}"
            )
    if not processor.tokenizer.encode("A", add_special_tokens=False):  # transformers makes an empty one without a file
        raise SekdError(f"model {model.name}: {model.path!r} has no words for its tokenizer: copy tokenizer.json there")
    if not getattr(processor, "chat_template", None):
        raise SekdError(f"model {model.name}: {model.path!r} has no chat template: a chat model is needed")
    return processor


def image_bounds(model: ModelConfig) -> dict[str, int]:
    """The bounds on an image that are set, by their names in transformers and vLLM."""
    return {name: value for setting, name in SETTINGS.items() if (value := getattr(model, setting)) is not None}


def load_vlm(model: ModelConfig, *, dtype: Any = "auto", device: Any = "cpu") -> Any:
    """The model's weights in transformers, in evaluation mode.

    Raises:
        SekdError: the folder or hub id holds no such model, or cannot be reached.
    """
    from transformers import AutoModelForImageTextToText

    try:
        vlm = AutoModelForImageTextToText.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code, dtype=dtype
        )
    except OSError as error:
        raise unreadable(model, "model", error) from error
    return vlm.to(device).eval()


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """What a model's answers depend on, for the store's fingerprint: weights, adapter, processor, pixel bounds.

    Files are identified by content, so that a moved folder is the same model and an edited one is not.
    """
    folder = model_folder(model)
    return {
        "weights": digest(folder, ("config.json", *WEIGHT_FILES)),
        "processor": digest(folder, PROCESSOR_FILES),
        "adapter": digest(Path(model.adapter), ADAPTER_FILES) if model.adapter else None,
        "dtype": model.dtype,
        **image_bounds(model),
    }


def model_folder(model: ModelConfig) -> Path:
    """The local folder of the model's files; a hub id is downloaded unless the hub's cache has it."""
    if Path(model.path).is_dir():
        return Path(model.path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model.path, revision=model.revision))
    except Exception as error:  # the hub raises its own, requests' and OS errors for the same cause
        raise unreadable(model, "model", error) from error


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Names and shapes of a safetensors file's tensors, from its header alone; ``SekdError`` for another file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SekdError(f"{file} is no safetensors file ({error}): it may be cut off; copy it again") from error


def digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """SHA-256 over the names and bytes of a folder's files that match any of the patterns.

    The hub's cache names each large file by the SHA-256 of its bytes; those are not read again.
    """
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    if not files:
        raise SekdError(f"{folder} holds none of {', '.join(patterns)}: expected a model or adapter folder")
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode())
        blob = file.readlink().name if file.is_symlink() else ""
        if len(blob) != 64:
            with file.open("rb") as stream:
                blob = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(blob.encode())
    return total.hexdigest()


def adapter_rank(adapter: Path | None) -> int:
    """The rank of a LoRA adapter, which the engine needs at its start; 0 for none."""
    if adapter is None:
        return 0
    file = adapter / "adapter_config.json"
    if not file.is_file():
        raise SekdError(f"{adapter} is no LoRA adapter: expected adapter_config.json in it, as `make student` writes")
    return int(json.loads(file.read_text())["r"])


def unreadable(model: ModelConfig, what: str, error: Exception) -> SekdError:
    """That a part of the model could not be loaded, and in a line of its library's words why."""
    why = shorten(str(error), 260, placeholder=" …") or type(error).__name__
    return SekdError(
        f"model {model.name}: no {what} could be loaded from {model.path!r} ({why}). "
        "Expected a folder saved by transformers, or the id of a model on the hub that can be reached."
    )
