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
    "r": "adapter.rank",
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


# Settings of LLaMA-Factory that have nothing to set here, and why.
NOT_NEEDED = {
    "template": "the model's own template is used; `template` here is a .jinja file or `chatml`",
    "do_train": "`finery train` trains",
    "do_eval": "held-out rows are evaluated wherever `validation` is given",
    "overwrite_cache": "there is no cache",
    "overwrite_output_dir": "a finished run is never overwritten",
    "preprocessing_num_workers": "the data is read in one process",
    "dataloader_num_workers": "the data is read in one process",
    "logging_steps": "each step is logged",
    "plot_loss": "`finery runs RUN` shows the course, events.jsonl holds it",
    "report_to": "events.jsonl holds everything",
    "resume_from_checkpoint": "`finery resume RUN`",
    "trust_remote_code": "code from a model folder is never run",
    "eval_strategy": "`evaluate_every` says when",
    "evaluation_strategy": "`evaluate_every` says when",
    "per_device_eval_batch_size": "evaluation uses `tokens_per_pass`",
}


def looks_like_llamafactory(values: dict[str, Any]) -> bool:
    """Whether a file is written for LLaMA-Factory: its names for the model and for what to do."""
    return "model_name_or_path" in values and bool({"stage", "finetuning_type", "dataset", "do_train"} & values.keys())


def side_by_side(document: Document) -> ConfigError:
    """The error for such a file: each of its keys with ours. Nothing is translated, so nothing is lost in silence."""
    lines = []
    for key in document.values:
        ours = NOT_NEEDED.get(key) or (key if key in Config.model_fields else OTHER_NAMES.get(key, "has no setting here"))
        lines.append(f"{document.path}:{document.line_of([key])}: {key} -> {ours}")
    return ConfigError(
        "this file is written for LLaMA-Factory, and Finery does not translate it yet; its keys and ours:\n" + "\n".join(lines),
        str(document.path),
        "write a new YAML with our keys; batch_size is per_device_train_batch_size x gradient_accumulation_steps x devices",
    )
