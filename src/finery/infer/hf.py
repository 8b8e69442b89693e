"""Generation with transformers' own `generate`: never a sampling loop of ours. Text comes in pieces as it is made."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Answer:
    """What a model said. `finish`: stop (by its own end token), length (the limit), or cancelled."""

    text: str
    ids: list[int]  # without the stop token
    finish: str


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompt_ids: list[int],
    stop_ids: Iterable[int],
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    on_text: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Answer:
    """The answer to a prompt of token ids. Temperature 0 takes the most likely token each time.

    `on_text` is called with each piece of text as soon as its letters are whole. A KeyboardInterrupt ends the answer, not the
    program: what was said so far comes back as `cancelled`.
    """
    stops = list(stop_ids)
    pieces = Pieces(tokenizer, stops, on_text, cancelled)
    settings: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": max_new_tokens}
    if temperature > 0:
        settings |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
    if repetition_penalty != 1.0:
        settings["repetition_penalty"] = repetition_penalty
    ids = torch.tensor([prompt_ids], device=model.device)
    finish = ""
    with stock_attention(model), seeded(seed, model.device), own_settings(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about settings that a model's author left in generation_config.json
        try:
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                eos_token_id=stops,
                pad_token_id=stops[0],
                streamer=pieces,
                **settings,
            )
        except (KeyboardInterrupt, Cancelled):
            finish = "cancelled"
            pieces.on_text = None  # nobody listens any more
    pieces.end()
    stopped = bool(pieces.ids) and pieces.ids[-1] in stops
    said = pieces.ids[:-1] if stopped else pieces.ids
    return Answer(pieces.text, said, finish or ("stop" if stopped else "length"))


class Cancelled(Exception):
    """Somebody no longer wants the answer."""


class Pieces:
    """A streamer of `generate`: it is handed the prompt, then each new token, in the same thread.

    Text is decoded from a few tokens back, so that a token means what it means after those before it; a letter of which bytes
    are missing (decoded as U+FFFD) waits for them.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: list[int],
        on_text: Callable[[str], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.tokenizer, self.stops, self.on_text, self.cancelled = tokenizer, stops, on_text, cancelled
        self.ids: list[int] = []
        self.text = ""
        self.back, self.shown = 0, 0  # tokens: where decoding starts, and how many have been shown
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        self.ids += value.flatten().tolist()
        self.show()
        if self.cancelled is not None and self.cancelled():
            raise Cancelled

    def show(self, last: bool = False) -> None:
        """Hand on what is new."""
        ids = self.ids[:-1] if self.ids and self.ids[-1] in self.stops else self.ids
        old, new = self.decode(ids[self.back : self.shown]), self.decode(ids[self.back :])
        if len(new) <= len(old) or (new.endswith("\ufffd") and not last):
            return
        self.back, self.shown = self.shown, len(ids)
        self.text += new[len(old) :]
        if self.on_text is not None:
            self.on_text(new[len(old) :])

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def end(self) -> None:
        self.show(last=True)


@contextlib.contextmanager
def stock_attention(model: Any) -> Iterator[None]:
    """A model that is being trained, for a moment as it came: its own attention, its cache, no dropout. Then back, exactly."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    attention, cache = base.config._attn_implementation, base.config.use_cache
    modes = [(module, module.training) for module in model.modules()]
    if attention.startswith("finery"):
        base.set_attn_implementation("sdpa" if base._supports_sdpa else "eager")
    base.config.use_cache = True
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        base.config.use_cache = cache
        if attention.startswith("finery"):
            base.set_attn_implementation(attention)


@contextlib.contextmanager
def own_settings(model: Any) -> Iterator[None]:
    """Without the sampling habits of the model's author: what is asked for is what is used."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


@contextlib.contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """The base model under an adapter."""
    with model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Random numbers from a seed; a training's own go on undisturbed afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if seed is not None:
            torch.manual_seed(seed)
        yield
