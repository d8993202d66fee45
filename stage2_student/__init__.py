"""Stage 2: a LoRA student is distilled from the stored pass to answer all levels in a single pass."""
