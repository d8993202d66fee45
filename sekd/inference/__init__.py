"""Vision-language models on vLLM: the only package that imports it. Only ``strategies`` knows about questions."""
