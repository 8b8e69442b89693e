"""The final weights, in the form that transformers and peft load without Finery."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from finery.train.checkpoint import seal, sync

if TYPE_CHECKING:
    from finery.train.loop import Job


def save_final(job: Job, tokenizer: Any) -> None:
    """Adapter or model, tokenizer and the chat template that was trained with, into `final/`; whole or not at all."""
    from finery.model.adapter import save_adapter

    final = job.run.final_folder
    scratch = final.with_name(f".{final.name}.{os.getpid()}")
    for leftover in final.parent.glob(f".{final.name}.*"):
        shutil.rmtree(leftover)
    scratch.mkdir()
    save_adapter(job.model, scratch)
    own_template = tokenizer.chat_template
    if job.prepared.renderer is not None:
        tokenizer.chat_template = job.prepared.renderer.source
    tokenizer.save_pretrained(scratch)
    tokenizer.chat_template = own_template
    seal(scratch, {"step": job.step, "adapter": job.config.adapter.type, "base": job.config.model})
    if final.exists():
        shutil.rmtree(final)
    scratch.rename(final)
    sync(final.parent)
