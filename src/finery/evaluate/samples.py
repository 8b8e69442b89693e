"""Answers to the same questions at each evaluation: what a loss can't show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finery.infer.hf import generate

if TYPE_CHECKING:
    from finery.data.render import Renderer
    from finery.types import Message


def answer_questions(
    model: Any, tokenizer: Any, renderer: Renderer, questions: list[list[Message]], max_new_tokens: int = 64
) -> list[str]:
    """The most likely answer to each conversation, at most `max_new_tokens` long, prompts rendered as in training."""
    found = []
    for messages in questions:
        ids = renderer.prompt(messages)
        found.append(generate(model, tokenizer, ids, renderer.stop_ids, max_new_tokens=max_new_tokens).text)
    return found
