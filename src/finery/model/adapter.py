"""Low-rank adapters beside frozen weights, in peft's own form: stock peft loads what is saved here."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from finery.config.schema import Config


def add_adapter(model: Any, config: Config) -> Any:
    """The model ready to train: with a fresh LoRA adapter (float32, made from `config.seed`), or with every weight trained.

    ConfigError where `adapter.target` names layers that the model has not.
    """
    import torch

    settings = config.adapter
    if settings.type == "full":
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    from finery.model.lora import FusedLinear

    alpha: Any = settings.alpha if settings.alpha is not None else 2 * settings.rank
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=alpha,
        lora_dropout=settings.dropout,
        target_modules=targets(model, settings.target),
        fan_in_fan_out=has_conv1d(model),
        task_type="CAUSAL_LM",
    )
    lora._register_custom_module({torch.nn.Linear: FusedLinear})
    with torch.random.fork_rng(devices=[]), without_warning():
        torch.manual_seed(config.seed)
        return get_peft_model(model, lora)


def save_adapter(model: Any, folder: Path) -> None:
    """The adapter (peft's files) or the whole model (transformers' files), as safetensors."""
    from finery.model.load import quiet

    with quiet():
        if hasattr(model, "peft_config"):
            # "auto" asks the hub whether the vocabulary has grown; nothing here makes it grow
            model.save_pretrained(folder, save_embedding_layers=False)
        else:
            model.save_pretrained(folder)


def load_adapter(model: Any, folder: Path, trainable: bool = False) -> Any:
    """The model with the adapter of `folder` on it."""
    from peft import PeftModel

    with without_warning():
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


@contextmanager
def without_warning() -> Iterator[None]:
    """peft 0.21 asks transformers 5.24 for `is_gradient_checkpointing`, which goes in version 6; nothing to tell a user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def targets(model: nn.Module, wanted: str | list[str]) -> list[str]:
    """Names of the layers that get an adapter; `all` is every linear layer but the output head."""
    linear = linear_names(model)
    if wanted == "all":
        return sorted(linear)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in names if name not in linear and name != head_name(model)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], linear, n=1)
        raise ConfigError(
            f"the model has no linear layer called {', '.join(unknown)}",
            "adapter.target",
            (f"did you mean {near[0]}? " if near else "") + f"it has {', '.join(sorted(linear))}; `all` takes them all",
        )
    return names


def linear_names(model: nn.Module) -> set[str]:
    """Last names of the linear layers, the output head left out."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()  # type: ignore[operator]
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def head_name(model: nn.Module) -> str:
    head = model.get_output_embeddings()  # type: ignore[operator]
    return next((name.rpartition(".")[2] for name, module in model.named_modules() if module is head), "")


def has_conv1d(model: nn.Module) -> bool:
    """Whether the linear layers keep their matrices transposed, as gpt2's do."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())
