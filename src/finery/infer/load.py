"""What a user calls a model to talk to: a run, a folder, a `.gguf` file or a hub name."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from finery.data.render import Renderer
from finery.errors import ModelError, RunError
from finery.infer.hf import adapter_off
from finery.run import is_run, open_run


@dataclass
class Speaker:
    """A loaded model with what rendering needs. `base_model` is what it was before training, where it is to be compared."""

    name: str
    model: Any
    tokenizer: Any
    renderer: Renderer
    base_model: Any = None  # None: the same model with its adapter off
    tuned: bool = False
    context: int | None = None  # tokens

    def as_base(self) -> tuple[Any, Any]:
        """(model, context manager) that answer as the base model."""
        if self.base_model is not None:
            return self.base_model, contextlib.nullcontext()
        return self.model, adapter_off(self.model)


def load_speaker(target: str, compare: bool = False) -> Speaker:
    """Load a run's final weights, or a model. RunError where a run has no final weights yet."""
    from finery.config.schema import Config, Source
    from finery.model.load import load_model, load_tokenizer, model_limit

    if not is_run(target):
        if compare:
            raise ModelError("--compare needs a run: a model by itself has no base", target, "name a run folder")
        model, _ = load_model(Config(model=target, data=[Source(path="none")]))
        tokenizer, stop_ids = load_tokenizer(target)
        return Speaker(target, model.eval(), tokenizer, Renderer(tokenizer, stop_ids), context=model_limit(target))
    run = open_run(target)
    if not run.finished:
        status = run.status()
        way_out = "wait for it" if status.state == "running" else f"go on with `finery resume {target}`"
        raise RunError(f"this run has no final weights yet ({status.state} at step {status.step})", target, way_out)
    final, config = str(run.final_folder), run.config
    tokenizer = load_saved_tokenizer(final)
    rendering = run.environment.get("rendering", {})
    template = None if tokenizer.chat_template else "chatml"
    stop_ids = rendering.get("stop_ids") or load_tokenizer(config.model)[1]
    renderer = Renderer(tokenizer, stop_ids, template=template)
    renderer.mode_seen.update(rendering.get("thinking", {}))
    base = None
    if config.adapter.type == "full":
        model, _ = load_model(config.model_copy(update={"model": final}))
        if compare:
            base, _ = load_model(config)
            base.eval()
    else:
        from finery.model.adapter import load_adapter

        model, _ = load_model(config)
        model = load_adapter(model, run.final_folder)
    return Speaker(target, model.eval(), tokenizer, renderer, base, True, model_limit(config.model))


def load_saved_tokenizer(final: str) -> Any:
    """The tokenizer beside the final weights; a folder with an adapter has no config.json to look at."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(final, trust_remote_code=False)
