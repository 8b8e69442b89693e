"""The optimizer and the learning rate, which is a pure function of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from finery.config.schema import Config


def trained_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that the optimizer moves, by name, in the model's order; tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def make_optimizer(model: torch.nn.Module, config: Config) -> torch.optim.Optimizer:
    """AdamW. Weight decay is for matrices; biases, norms and other vectors are left alone."""
    import torch

    parameters = list(trained_parameters(model).values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    chosen = config.optimizer
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,  # set before each step
        betas=(chosen.beta1, chosen.beta2),
        eps=chosen.epsilon,
    )


def warmup_steps(warmup: float, steps: int) -> int:
    """`warmup` is a number of steps, or below 1 a share of all."""
    return int(warmup) if warmup >= 1 else round(warmup * steps)


def learning_rate_of(config: Config, steps: int) -> Callable[[int], float]:
    """Learning rate of optimizer step 0, 1, ... `steps` - 1, by transformers' schedules.

    They give step 0 of a warm-up a rate of zero, an update that changes nothing: ours begin one step later.
    """
    import torch
    from transformers import get_scheduler

    peak = config.learning_rate
    assert peak is not None  # settled for the adapter
    warmup = warmup_steps(config.warmup, steps)
    probe = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    shift = 1 if warmup else 0
    schedule = get_scheduler(
        config.schedule if config.schedule != "constant" else "constant_with_warmup", probe, warmup, steps + shift
    )
    factor = schedule.lr_lambdas[0]
    return lambda step: peak * factor(step + shift)
