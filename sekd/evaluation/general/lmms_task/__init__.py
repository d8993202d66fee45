"""The files that ``sekd.evaluation.general.export`` copies into a task's folder."""
