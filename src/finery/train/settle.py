"""Settings that were left open, filled in for this model and machine. What stands in run.yaml is what runs."""

from __future__ import annotations

from pathlib import Path

from finery.config.schema import Config
from finery.errors import ConfigError

CONTEXT = 4096  # tokens, where neither the user nor the model says less
LEARNING_RATE = {"lora": 2e-4, "full": 2e-5}
TOKENS_PER_PASS = {"cpu": 2048, "cuda": 8192, "mps": 4096}


def settle(config: Config) -> Config:
    """What reading the data needs: the context, from the model's config.json. No weights, no torch."""
    from finery.model.load import model_limit

    limit = model_limit(config.model)
    if config.context is not None and limit is not None and config.context > limit:
        raise ConfigError(
            f"context is {config.context} tokens, but the model was made for at most {limit}",
            "context",
            f"context={limit}, or a model with a longer context",
        )
    context = config.context or min(CONTEXT, limit or CONTEXT)
    rate = config.learning_rate or LEARNING_RATE[config.adapter.type]
    output = config.output or str(Path("runs") / Path(config.model).name)
    adapter = config.adapter
    if adapter.type == "lora" and adapter.alpha is None:
        adapter = adapter.model_copy(update={"alpha": 2.0 * adapter.rank})
    return config.model_copy(update={"context": context, "learning_rate": rate, "output": output, "adapter": adapter})


def settle_device(config: Config, device: str) -> Config:
    """What the device decides. The result of a step is the same whatever `tokens_per_pass` is."""
    return config.model_copy(update={"tokens_per_pass": config.tokens_per_pass or TOKENS_PER_PASS[device]})
