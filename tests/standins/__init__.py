"""Stand-ins of the released vision-language models: everything but their size and their training.

Each has the real architecture and processor class, the real vocabulary size with the special tokens at their real ids,
the real pixel bounds or tiling, and a chat template of the same token structure; two or three layers of random
weights, 64 wide. A folder lies as the released one does. ``photos`` writes real-size photos of every kind.
"""

from collections.abc import Callable

from sekd.models import ModelConfig
from standins.families import FAMILIES
from standins.photos import Photos, write_photos
from standins.weights import build

Standin = Callable[..., ModelConfig]  # family, dtype="float32" → how a configuration names its folder

__all__ = ["FAMILIES", "Photos", "Standin", "build", "write_photos"]
