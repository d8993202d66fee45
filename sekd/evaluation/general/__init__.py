"""General and mathematical benchmarks of base and student by lmms-eval: what the student forgot."""
