"""Asking a vision-language model through vLLM: the only part of the project that knows the engine.

Nothing here knows what the questions mean, except ``strategies``, which knows in which order they are asked.
"""
