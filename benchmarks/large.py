"""A LoRA step of the student on a model of Qwen2.5-VL-7B's shape with random weights, on a GPU.

Images of 644 × 644 pixels are 529 tokens each. FLOPs are counted from the shapes: 2 a weight and token forward, 2 more
backward where gradients pass through frozen weights, 4 more for LoRA's own, the recomputation of checkpoints left out
as is usual. Utilisation is of what a large matrix product reaches on the same device in the same run.
"""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.logits import text_batch
from stage2_student.batch import Batch, Candidates, Positions
from stage2_student.config import LoraSettings, LossConfig
from stage2_student.model import Student
from stage2_student.objective import Objective

SHAPE: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
SIDE, TEXT, LEVELS, K = 644, 256, 6, 32
BATCHES = (1, 4, 8)
STEPS, WARM = 8, 3


def measure_large(*, device: str = "cuda", rounds: int = 3) -> dict[str, Any]:
    """Images a second, peak memory and utilisation by batch size, and where the time of a step goes."""
    student = seven_billion(device)
    objective = Objective(LossConfig(), n_layers=student.n_layers)
    optimizer = torch.optim.AdamW([weights for weights in student.parameters() if weights.requires_grad], lr=1e-4)
    rate = matrix_rate(device)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "matrix_tflops": rate / 1e12, "batches": {}}
    for size in BATCHES:
        batch = image_batch(student, size, device)
        torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM):
            _step(student, objective, optimizer, batch)
        seconds = [_timed(student, objective, optimizer, batch) for _ in range(rounds)]
        best = min(seconds)
        found["batches"][size] = {
            "tokens": batch.inputs["input_ids"].shape[1],
            "images_a_second": [size / taken for taken in seconds],
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
            "utilisation": flops(student, batch) / best / rate,
        }
    found["profile"] = _profiled(lambda: _step(student, objective, optimizer, batch))
    return found


def seven_billion(device: str) -> Student:
    """The default LoRA on random weights in bfloat16, with gradient checkpointing."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    sizes = Qwen2_5_VLConfig(
        text_config=SHAPE,
        vision_config={**VISION, "out_hidden_size": SHAPE["hidden_size"]},
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            vlm = Qwen2_5_VLForConditionalGeneration(sizes)
    finally:
        torch.set_default_dtype(before)
    return Student(vlm, LoraSettings(), gradient_checkpointing=True).to(device).train()


def image_batch(student: Student, size: int, device: str) -> Batch:
    """One image, a text and an answer each, with stored targets."""
    settings = student.base.config
    side = SIDE // VISION["patch_size"]
    image_tokens = (side // VISION["spatial_merge_size"]) ** 2
    length = image_tokens + TEXT
    ids_BT = torch.randint(1000, 100_000, (size, length))
    ids_BT[:, 8] = settings.vision_start_token_id
    ids_BT[:, 9 : 9 + image_tokens] = settings.image_token_id
    values = 3 * VISION["temporal_patch_size"] * VISION["patch_size"] ** 2
    rows_N = torch.arange(size).repeat_interleave(LEVELS)
    places_N = (length - 12 * torch.arange(1, LEVELS + 1)).repeat(size)
    letters = Positions(rows_N, places_N, ids_BT[rows_N, places_N + 1])
    logprobs_NK = torch.randn(len(rows_N), K).sort(descending=True).values.log_softmax(-1) - 0.01
    shares_N = torch.full((len(rows_N),), 1 / len(rows_N))
    batch = replace(
        text_batch(length),
        inputs={
            "input_ids": ids_BT,
            "attention_mask": torch.ones_like(ids_BT),
            "mm_token_type_ids": (ids_BT == settings.image_token_id).int(),
            "pixel_values": torch.randn(size * side**2, values),
            "image_grid_thw": torch.tensor([[1, side, side]] * size),
        },
        letters=letters,
        others=letters,
        levels_N=torch.zeros(len(rows_N), dtype=torch.long),
        level_names=("level",),
        shares_N=shares_N,
        shares_M=shares_N,
        candidates=Candidates(
            torch.randint(0, 100_000, logprobs_NK.shape), logprobs_NK, torch.full(rows_N.shape, -4.6)
        ),
        hidden_NRD=torch.randn(len(rows_N), 1, SHAPE["hidden_size"], dtype=torch.float16),
        images=size,
    )
    return batch.to(device)


def flops(student: Student, batch: Batch) -> float:
    """Of one step; see the module's own text."""
    decoder, tower = student.decoder.layers, student.base.model.visual
    tokens, patches = batch.inputs["input_ids"].numel(), len(batch.inputs["pixel_values"])
    lora = sum(weights.numel() for weights in decoder.parameters() if weights.requires_grad)
    frozen = sum(weights.numel() for weights in decoder.parameters()) - lora
    length, width = batch.inputs["input_ids"].shape[1], SHAPE["hidden_size"]
    attention = 2 * length * width * len(decoder)  # causal: half of 4 × length × width a token and layer
    rows = len(batch.letters.rows) + len(batch.others.rows)
    head = 4 * SHAPE["vocab_size"] * width * rows
    vision = 2 * sum(weights.numel() for weights in tower.parameters()) * patches
    return tokens * (4 * frozen + 6 * lora + 3 * attention) + head + vision


def matrix_rate(device: str, side: int = 8192) -> float:
    """FLOPs a second of a square product in bfloat16."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    return 20 * 2 * side**3 / (time.perf_counter() - begin)


def _step(student: Student, objective: Objective, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
    with torch.autocast(batch.shares_N.device.type, dtype=torch.bfloat16):
        states = student(batch, layers=objective.student_layers)
        loss = objective(states, batch, head=student.head, norm=student.norm).total
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def _timed(*step: Any) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(STEPS):
        _step(*step)
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / STEPS


def _profiled(step: Any) -> list[dict[str, Any]]:
    """The twelve kinds of operation that the device spends most time on, in shares of its time."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) or 1
    return [
        {"operation": event.key, "share": event.self_device_time_total / total, "calls": event.count}
        for event in events[:12]
    ]
