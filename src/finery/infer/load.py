"""What a user calls a model to talk to: a run, a folder, a `.gguf` file or a hub name."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from finery.data.render import Renderer
from finery.errors import ModelError, RunError
from finery.infer.hf import adapter_off
from finery.run import Run, is_run, open_run

NO_TEMPLATE = "note: the model has no chat template; the built-in chatml is used"


@dataclass
class Speaker:
    """A loaded model with what rendering needs. `base_model` is what it was before training, where it is to be compared."""

    name: str
    model: Any
    tokenizer: Any
    renderer: Renderer
    base_model: Any = None  # None: the same model with its adapter off
    context: int | None = None  # tokens
    notes: list[str] = field(default_factory=list)

    def as_base(self) -> tuple[Any, Any]:
        """(model, context manager) that answer as the base model."""
        if self.base_model is not None:
            return self.base_model, contextlib.nullcontext()
        return self.model, adapter_off(self.model)


def load_speaker(target: str, compare: bool = False) -> Speaker:
    """Load a run's final weights, or a model. RunError where a run has no final weights yet, else ModelError."""
    if is_run(target):
        return load_run(open_run(target), compare)
    if compare:
        raise ModelError("--compare needs a run: a model by itself has no base", target, "name a run folder")
    from finery.config.schema import Config, Source
    from finery.model.load import load_model, load_tokenizer, model_limit

    tokenizer, stop_ids = load_tokenizer(target)
    renderer, notes = rendered_by(tokenizer, stop_ids)
    model, _ = load_model(Config(model=target, data=[Source(path="none")]))
    return Speaker(target, model.eval(), tokenizer, renderer, None, model_limit(target), notes)


def load_run(run: Run, compare: bool) -> Speaker:
    """The final weights of a run, with the template, stop tokens and thinking modes that it was trained with."""
    from finery.model.adapter import load_adapter
    from finery.model.load import load_model, load_tokenizer, model_limit, refuse_other_base

    if not run.finished:
        status = run.status()
        way_out = "wait for it" if status.state == "running" else f"go on with `finery resume {run.folder}`"
        raise RunError(f"this run has no final weights yet ({status.state} at step {status.step})", str(run.folder), way_out)
    final, config = str(run.final_folder), run.config
    full = config.adapter.type == "full"
    if not full or compare:
        refuse_other_base(config.model, run.environment, "put the old model back")
    tokenizer = load_saved_tokenizer(final)
    rendering = run.environment.get("rendering", {})
    renderer, notes = rendered_by(tokenizer, rendering.get("stop_ids") or load_tokenizer(config.model)[1])
    renderer.mode_seen.update(rendering.get("thinking", {}))
    base = load_model(config)[0].eval() if not full or compare else None
    if full:
        model, _ = load_model(config.model_copy(update={"model": final}))
    else:
        model, base = load_adapter(base, run.final_folder), None
    context = model_limit(final if full else config.model)
    return Speaker(str(run.folder), model.eval(), tokenizer, renderer, base, context, notes)


def rendered_by(tokenizer: Any, stop_ids: list[int]) -> tuple[Renderer, list[str]]:
    """The renderer with the tokenizer's own template, which a run's tokenizer carries; chatml where it has none."""
    if tokenizer.chat_template:
        return Renderer(tokenizer, stop_ids), []
    return Renderer(tokenizer, stop_ids, template="chatml"), [NO_TEMPLATE]


def load_saved_tokenizer(final: str) -> Any:
    """The tokenizer beside the final weights; a folder with an adapter has no config.json to look at."""
    from transformers import AutoTokenizer

    from finery.model.load import explained, quiet

    with quiet(), explained(final):
        return AutoTokenizer.from_pretrained(final, trust_remote_code=False)
