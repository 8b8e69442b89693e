"""What other tools call our settings, for errors that show the right name at once."""

from __future__ import annotations

from typing import Any

from finery.config.lines import Document
from finery.config.schema import Config
from finery.errors import ConfigError

OTHER_NAMES = {
    "model_name_or_path": "model",
    "base_model": "model",
    "model_id": "model",
    "dataset": "data",
    "datasets": "data",
    "train_file": "data",
    "dataset_dir": "data",
    "stage": "objective",
    "finetuning_type": "adapter",
    "peft": "adapter",
    "lora_rank": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_target": "adapter.target",
    "lora_target_modules": "adapter.target",
    "cutoff_len": "context",
    "max_seq_length": "context",
    "max_length": "context",
    "sequence_len": "context",
    "model_max_length": "context",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "batch_size",
    "micro_batch_size": "tokens_per_pass",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "lr": "learning_rate",
    "lr_scheduler_type": "schedule",
    "lr_scheduler": "schedule",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "max_grad_norm": "clip",
    "gradient_clipping": "clip",
    "val_size": "validation",
    "val_set_size": "validation",
    "eval_dataset": "validation",
    "eval_steps": "evaluate_every",
    "save_steps": "save_every",
    "save_total_limit": "keep_checkpoints",
    "output_dir": "output",
    "chat_template": "template",
    "optim": "optimizer",
    "bf16": "dtype",
    "fp16": "dtype",
    "torch_dtype": "dtype",
    "packing": "layout",
}


def looks_like_llamafactory(values: dict[str, Any]) -> bool:
    """Whether a file is written for LLaMA-Factory: its names for the model and for what to do."""
    return "model_name_or_path" in values and bool({"stage", "finetuning_type", "dataset", "do_train"} & values.keys())


def side_by_side(document: Document) -> ConfigError:
    """The error for such a file: each of its keys with ours."""
    lines = []
    for key in document.values:
        ours = key if key in Config.model_fields else OTHER_NAMES.get(key, "no setting here yet")
        lines.append(f"{document.path}:{document.line_of([key])}: {key} -> {ours}")
    return ConfigError(
        "this file is written for LLaMA-Factory; its settings under their names here:\n" + "\n".join(lines),
        str(document.path),
        "write these settings into a new YAML; batch_size is per-device batch x accumulation x devices",
    )
