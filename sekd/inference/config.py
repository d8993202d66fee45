"""Engine settings for speed and memory. None is part of a store's identity."""

from dataclasses import dataclass

from sekd.errors import SekdError

COUNTS = ("threads", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size", "readers")


@dataclass
class EngineConfig:
    """One entry of ``conf/engine``.

    Attributes:
        name: the entry's name, for provenance.
        device: "cpu" or "cuda"; which of the two builds of vLLM is expected to be installed.
        in_process: run vLLM's core in this process. Starts faster and makes the schedule depend only on the requests;
            if off, the core runs in parallel to reading images and building prompts.
        eager: no compilation and no CUDA graphs.
        threads: torch threads of one engine on CPU; more engines (``workers``) scale better than more threads.
        max_model_len: longest prompt plus answer in tokens (at most the model's own limit). An image with a longer
            prompt is skipped and reported.
        max_num_seqs: most requests in one engine step, and most images in progress.
        max_num_batched_tokens: most tokens in one engine step.
        block_size: tokens a KV block; None is vLLM's default. Prefixes are reused in whole blocks.
        kv_cache_gb: size of the KV cache in GiB; None takes the rest of ``memory_share``.
        memory_share: share of the GPU's memory that the engine may take.
        tensor_parallel_size: GPUs over which one engine's weights are split.
        prefix_caching: reuse the image's prefix between the steps of a path. Off only in benchmarks.
        image_cache_gb: processed images kept by the engine, in GiB.
        readers: threads that read, decode and process images ahead of the engine.
    """

    name: str = "cpu"
    device: str = "cpu"
    in_process: bool = True
    eager: bool = True
    threads: int = 1
    max_model_len: int = 4096
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 4096
    block_size: int | None = 32
    kv_cache_gb: float | None = 0.5
    memory_share: float = 0.9
    tensor_parallel_size: int = 1
    prefix_caching: bool = True
    image_cache_gb: float = 0.5
    readers: int = 2

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise SekdError(f"engine.device={self.device}: expected cpu or cuda")
        for name in COUNTS:
            if (value := getattr(self, name)) < 1:
                raise SekdError(f"engine.{name}={value}: expected at least 1")
