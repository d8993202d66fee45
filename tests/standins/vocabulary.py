"""Tokenizers of real size: a byte-pair encoding learned from a few words, filled up with entries that never occur.

The released vocabularies are not at hand in tests. Their size, their special tokens with their ids, the way they cut
text and the ids of the letters are the same here; how many tokens a long word takes is not.
"""

import json
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from sekd.prompts import TEMPLATES

QWEN_WORDS = 151_643
QWEN_LETTERS = {"ĠA": 362, "ĠB": 425, "ĠC": 356, "ĠD": 422}

QWEN2 = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN2_5 = (
    *QWEN2,
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
)
QWEN3 = (*QWEN2_5, "<tool_response>", "</tool_response>", "<think>", "</think>")
INTERNVL = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
ORDINARY = ("tool", "think", "fim", "repo_name", "file_sep")  # added tokens that are not special


def write_qwen(folder: Path, added: tuple[str, ...], **settings: Any) -> None:
    """tokenizer.json and tokenizer_config.json of a Qwen2Tokenizer whose added tokens follow its words."""
    vocab, merges = _qwen_words()
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _qwen_cuts()
    tokenizer.decoder = decoders.ByteLevel()
    ids = {token: QWEN_WORDS + index for index, token in enumerate(added)}
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None}
    _write(folder, tokenizer, ids, {"tokenizer_class": "Qwen2Tokenizer", **special, **settings})


def write_llama(folder: Path, words: int, added: dict[str, int], *, prefix: str, **settings: Any) -> None:
    """The same of a LlamaTokenizer of so many words: spaces are letters, unknown ones are spelled in bytes."""
    vocab, merges = _llama_words(words)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=prefix, split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2, **added}
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if settings.get("add_bos_token"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", ids["<s>"])]
        )
    _write(folder, tokenizer, ids, {"tokenizer_class": "LlamaTokenizer", "legacy": False, **special, **settings})


def _write(folder: Path, tokenizer: Tokenizer, ids: dict[str, int], settings: dict[str, Any]) -> None:
    tokens = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": not any(word in token for word in ORDINARY),
        }
        for token, index in ids.items()
    ]
    whole = json.loads(tokenizer.to_str()) | {"added_tokens": tokens}
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in tokens}
    config = {"added_tokens_decoder": decoder, "clean_up_tokenization_spaces": False, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


@cache
def _qwen_words() -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _qwen_cuts()
    alphabet = _bytes_in_order()
    tokenizer.train_from_iterator(
        _text(), trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    )
    learned, merges = _learned(tokenizer)
    vocab = {letter: index for index, letter in enumerate(alphabet)} | QWEN_LETTERS
    assert set(QWEN_LETTERS) <= learned, "the letters are words of their own"
    free = (index for index in count(len(alphabet)) if index not in QWEN_LETTERS.values())
    vocab |= {word: next(free) for word in sorted(learned - set(vocab))}
    taken = set(vocab.values())
    vocab |= {f"Ġunused{index}": index for index in range(QWEN_WORDS) if index not in taken}
    assert sorted(vocab.values()) == list(range(QWEN_WORDS))
    return vocab, merges


@cache
def _llama_words(words: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first")
    tokenizer.train_from_iterator(_text(), trainers.BpeTrainer(vocab_size=2000, show_progress=False))
    learned, merges = _learned(tokenizer)
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(learned)]
    filled = fixed + [f"▁unused{index}" for index in range(len(fixed), words)]
    return {word: index for index, word in enumerate(filled)}, merges


def _learned(tokenizer: Tokenizer) -> tuple[set[str], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return set(model["vocab"]), [tuple(merge) for merge in model["merges"]]


def _text() -> list[str]:
    """The prompts' own words, and each letter of an answer often enough to be a word with its space."""
    letters = " ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return [TEMPLATES.read_text(encoding="utf-8"), *[f"answer: {letters}"] * 200]


def _qwen_cuts() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _bytes_in_order() -> list[str]:
    """The 256 letters of a byte-level vocabulary in the order of their ids: printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
