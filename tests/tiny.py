"""Tiny random models and tokenizers, made in a moment: the real loading code, no downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "Name a metal colour planet bird tree river gas. Iron Red Mars Robin Oak Rhine Neon. Who are you? I am here, and 1 2 3 4 5."
)


def make_tokenizer(template: str | None = CHATML, special: tuple[str, ...] = ("<|im_start|>", "<|im_end|>")) -> Any:
    """A byte-level BPE tokenizer of a few hundred tokens; `<|im_end|>` ends a turn, `<|endoftext|>` a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>", *special], initial_alphabet=alphabet)
    made.train_from_iterator([TEXT] * 4, trainer)
    end = special[-1] if special else "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, pad_token="<|endoftext|>")
    tokenizer.chat_template = template
    return tokenizer


def make_model(folder: Path, family: str = "llama", template: str | None = CHATML, seed: int = 0, **sizes: Any) -> Path:
    """A model folder of a few thousand weights, as transformers saves it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer(template)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**shape, **sizes}), dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 12) -> Path:
    """Short question-and-answer rows of different lengths."""
    import json

    words = "Iron Red Mars Robin Oak Rhine Neon Fig".split()
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            answer = " ".join(words[(number + i) % len(words)] for i in range(1 + number % 5)) + "."
            row = {"messages": [{"role": "user", "content": f"Name {number}?"}, {"role": "assistant", "content": answer}]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path
