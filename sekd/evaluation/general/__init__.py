"""General and mathematical benchmarks before and after, by lmms-eval: what the student forgot."""
