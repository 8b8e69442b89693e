"""Every setting, documented under its field. These words feed `--help`, the docs page, the editors' schema and the studio."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A group of settings: unknown keys are errors, values can't change after loading, numbers must be finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Source(Section):
    """One place that data comes from."""

    path: str
    """A file (json, jsonl, csv, tsv, parquet, txt, md) or a folder of them. Relative paths start at the YAML file's folder."""
    weight: float = Field(1.0, gt=0)
    """How often each row is used in an epoch: 0.5 takes another half each epoch, 2 takes every row twice."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Which column is what, where the names tell nothing: `{prompt: frage, answer: antwort}`. The right names: prompt, input,
    answer, system, history, messages, tools, chosen, rejected, label, text."""


class Sft(Section):
    """Supervised fine-tuning: every assistant turn is learned, everything else is context."""

    type: Literal["sft"] = "sft"
    last_turn_only: bool = False
    """Learn only the last assistant turn of each conversation; earlier ones are context."""


class Pt(Section):
    """Continued pre-training on raw text: every token is learned. One example is a block of `context` tokens."""

    type: Literal["pt"] = "pt"


class Full(Section):
    """Train every weight of the model."""

    type: Literal["full"] = "full"


class Lora(Section):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv 2106.09685)."""

    type: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1, le=1024)
    """Width of the adapter. More learns more and takes more memory; 8 to 64 is usual."""
    alpha: float | None = Field(None, gt=0)
    """The adapter's output is scaled by alpha / rank. Not given: twice the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are zeroed while training."""
    target: str | list[str] = "all"
    """Which linear layers get an adapter: `all` but the output head, or names such as `[q_proj, v_proj]`."""


class AdamW(Section):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv 1711.05101)."""

    type: Literal["adamw"] = "adamw"
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the running mean of the gradient."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the running mean of the squared gradient."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to the denominator."""


class Config(Section):
    """One run. Only `model` and `data` must be given."""

    model: str = Field(min_length=1)
    """The base model: a folder, a `.gguf` file, or a name on the Hugging Face hub. Relative to the YAML's folder."""
    data: str | list[str | Source] | Source = Field()
    """The training data: a file, a folder, or a list of them with weights. The format is recognised and shown."""
    objective: Annotated[Sft | Pt, Field(discriminator="type")] = Sft()
    """What is learned: `sft` (answers to conversations) or `pt` (raw text)."""
    adapter: Annotated[Lora | Full, Field(discriminator="type")] = Lora()
    """Which weights are trained: `lora` (small matrices beside frozen weights) or `full` (all)."""
    output: str | None = None
    """The run folder. Not given: `runs/NAME-OF-THE-YAML`."""

    template: str | None = None
    """The chat template: a `.jinja` file, or `chatml` (built in: roles, tools, reasoning). Not given: the model's own."""
    reasoning: Literal["keep", "inline", "drop"] = "keep"
    """Thoughts in the data: `keep` them where the template has a place (else the row is refused), write them `inline` before
    the answer, or `drop` them."""
    context: int | None = Field(None, ge=8)
    """Longest sequence in tokens. Not given: 4096, or the model's own limit where that is smaller."""
    on_too_long: Literal["error", "drop", "truncate", "split"] = "error"
    """A row longer than `context`: stop (`error`), leave it out (`drop`), keep the turns that fit whole (`truncate`), or make
    several sequences of it between turns (`split`). The end of an answer is never trained after a cut."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A row that can't be used: stop and list all of them (`error`), or leave them out and count them (`drop`)."""
    validation: float | int | str | None = None
    """Held-out rows for the evaluation loss: a share below 1, a number of rows, or a file of their own. Which rows are held out
    depends on their content, not on their order; equal rows stay together."""

    batch_size: int = Field(16, ge=1)
    """Examples per optimizer step, over all devices. Packing and memory never change it."""
    tokens_per_pass: int | None = Field(None, ge=8)
    """Tokens that go through the model at once: memory and speed, never the result. Not given: chosen for the device."""
    epochs: float = Field(3.0, gt=0)
    """How often the data is seen."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps, whatever `epochs` says."""
    learning_rate: float | None = Field(None, gt=0)
    """The peak step size. Not given: 2e-4 for lora, 2e-5 for full."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: float = Field(0.03, ge=0)
    """Steps over which the learning rate rises; below 1 a share of all steps."""
    weight_decay: float = Field(0.0, ge=0)
    """Shrinks the trained matrices a little each step; biases and norms are left alone."""
    clip: float | None = Field(1.0, gt=0)
    """Largest length of the gradient; longer ones are scaled down. `null` switches it off."""
    optimizer: Annotated[AdamW, Field()] = AdamW()
    """What turns gradients into steps."""
    seed: int = Field(0, ge=0)
    """Decides the order of rows, the fresh weights and dropout. The same seed gives the same run."""

    evaluate_every: float | None = Field(None, gt=0)
    """Steps between evaluations; below 1 a share of the run. Not given: a quarter of the run, where there are held-out rows."""
    save_every: float | None = Field(None, gt=0)
    """Steps between checkpoints; below 1 a share of the run. Not given: a quarter of the run, and at the end."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of the newest checkpoints stay on the disk."""
    questions: list[str] = Field(default_factory=list)
    """Questions that the model answers at each evaluation, kept in samples.jsonl. Not given: two held-out prompts."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train: the first GPU if there is one, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the frozen weights and the arithmetic. `auto`: bfloat16 on GPUs that have it, float32 elsewhere."""
    layout: Literal["auto", "forest", "dense", "padded"] = "auto"
    """How sequences share a pass. `auto` takes the fastest that this model passes the self-check with."""


def variants() -> dict[str, dict[str, type[Section]]]:
    """The settings that have variants by `type`: `{"adapter": {"lora": Lora, ...}, ...}`."""
    return {"objective": {"sft": Sft, "pt": Pt}, "adapter": {"lora": Lora, "full": Full}, "optimizer": {"adamw": AdamW}}
