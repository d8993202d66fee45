"""Asking a vision-language model through vLLM: the only package that imports vLLM.

Only ``strategies`` knows about questions.
"""
