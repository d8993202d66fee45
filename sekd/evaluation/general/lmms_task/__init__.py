"""What ``sekd.evaluation.general.export`` writes into a task's folder beside its questions."""
