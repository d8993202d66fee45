"""A LoRA step of the student on a model of Qwen2.5-VL-7B's shape with random weights: speed, memory, utilisation.

Utilisation counts 4 FLOPs a decoder weight and token, relative to a large matrix product on the same device.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Comparison, take_turns, timed, training_step
from stage2_student.batch import Batch, Candidates, Positions
from stage2_student.config import LoraSettings, LossConfig
from stage2_student.model import Student
from stage2_student.objective import Objective

TEXT: dict[str, Any] = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152_064}
TEXT |= {"num_attention_heads": 28, "num_key_value_heads": 4}
TEXT["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
VISION: dict[str, Any] = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
SIDE, PATCH, WORDS, STEPS, K = 644, 14, 256, 6, 32  # an image of 644 pixels is 529 tokens
PRODUCTS = 50  # timed together


def measure_large(
    *,
    rounds: int,
    sizes: tuple[int, ...] = (1, 4, 8),
    device: str = "cuda",
    text: dict[str, Any] = TEXT,
    vision: dict[str, Any] = VISION,
) -> Comparison:
    """Seconds an image by batch size. ``text`` and ``vision`` are the shape of decoder and vision tower."""
    student = random_student(device, text, vision)
    objective = Objective(LossConfig(), n_layers=student.n_layers)
    arms, notes = {}, []

    def loss(batch: Batch) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            states = student(batch, layers=objective.student_layers)
            return objective(states, batch, head=student.head, norm=student.norm).total

    step = training_step(student, loss)
    for size in sizes:
        batch = image_batch(student, size).to(device)
        arms[f"batch {size}"] = arm = timed(partial(step, batch), units=size)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            weights = sum(weights.numel() for weights in student.decoder.layers.parameters())
            used = 4 * weights * batch.inputs["input_ids"].shape[1] / arm() / matrix_rate(device)
            peak = torch.cuda.max_memory_allocated() / 1e9
            notes.append(f"batch {size}: {peak:.1f} GB at most, {used:.0%} utilisation")
    return Comparison("7 B shape, LoRA: an image", take_turns(arms, rounds=rounds), [], notes)


def random_student(device: str, text: dict[str, Any], vision: dict[str, Any]) -> Student:
    """The default LoRA on random bfloat16 weights, with gradient checkpointing."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {**vision, "patch_size": PATCH, "window_size": 112, "out_hidden_size": text["hidden_size"]}
    sizes = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, dtype="bfloat16")
    torch.manual_seed(0)
    with torch.device(device):
        vlm = Qwen2_5_VLForConditionalGeneration._from_config(sizes, dtype=torch.bfloat16)
    return Student(vlm, LoraSettings(), gradient_checkpointing=True).to(device).train()


def image_batch(student: Student, size: int) -> Batch:
    """Prompts of one image and 256 words, six answers each, with random targets."""
    settings, side = student.base.config, SIDE // PATCH
    image_tokens = (side // 2) ** 2
    length = image_tokens + WORDS
    vocabulary = settings.text_config.vocab_size
    ids_BT = torch.randint(1000, vocabulary, (size, length)) % (settings.vision_start_token_id - 8)
    ids_BT[:, 8] = settings.vision_start_token_id
    ids_BT[:, 9 : 9 + image_tokens] = settings.image_token_id
    rows_N = torch.arange(size).repeat_interleave(STEPS)
    places_N = (length - 12 * torch.arange(1, STEPS + 1)).repeat(size)
    letters = Positions(rows_N, places_N, ids_BT[rows_N, places_N + 1])
    logprobs_NK = torch.randn(len(rows_N), K).sort(descending=True).values.log_softmax(-1) - 0.01
    shares_N = torch.full((len(rows_N),), 1 / len(rows_N))
    return Batch(
        inputs={
            "input_ids": ids_BT,
            "attention_mask": torch.ones_like(ids_BT),
            "mm_token_type_ids": (ids_BT == settings.image_token_id).int(),
            "pixel_values": torch.randn(size * side**2, 3 * 2 * PATCH**2),
            "image_grid_thw": torch.tensor([[1, side, side]] * size),
        },
        answer_positions=letters,
        format_positions=letters,
        answers_N=torch.zeros(len(rows_N), dtype=torch.long),
        levels_N=torch.zeros(len(rows_N), dtype=torch.long),
        level_names=("level",),
        leaf_N=torch.zeros(len(rows_N), dtype=torch.bool),
        shares_N=shares_N,
        shares_M=shares_N,
        candidates=Candidates(torch.randint(0, 1000, logprobs_NK.shape), logprobs_NK, torch.full(rows_N.shape, -4.6)),
        parent_prob_N=None,
        hidden_NRD=torch.randn(len(rows_N), 1, settings.text_config.hidden_size, dtype=torch.float16),
        images=size,
        names=(),
    )


def matrix_rate(device: str, side: int = 8192) -> float:
    """FLOPs a second of square bfloat16 products, long enough for a GPU to leave the clock of its first ones."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)

    def products() -> None:
        for _ in range(PRODUCTS):
            a @ a
        torch.cuda.synchronize()

    return PRODUCTS * 2 * side**3 / timed(products)()
