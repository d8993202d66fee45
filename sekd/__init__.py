"""Self-elicited knowledge distillation: what both stages share, the task and the artifact contract."""
