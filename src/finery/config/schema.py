"""Every setting, documented under its field. These words feed `--help`, the docs page, the editors' schema and the studio."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

COLUMNS = ("prompt", "input", "answer", "system", "history", "messages", "tools", "chosen", "rejected", "label", "text")


class Section(BaseModel):
    """A group of settings: unknown keys are errors, values can't change after loading, numbers must be finite,
    and nothing is converted: `true` is no 1, "off" no false."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def null_is_not_given(cls, values: Any) -> Any:
        """`learning_rate: null` means its default; only where `null` is a value of its own (`clip`) it stays."""
        if not isinstance(values, dict):
            return values
        optional = {name for name, field in cls.model_fields.items() if type(None) in get_args(field.annotation)}
        return {k: v for k, v in values.items() if v is not None or k in optional or k not in cls.model_fields}


class Source(Section):
    """One place that data comes from."""

    path: str = Field(min_length=1)
    """A file (json, jsonl, csv, tsv, parquet, txt, md) or a folder of them. Relative paths start at the YAML file's folder."""
    weight: float = Field(1.0, gt=0)
    """How often each row is used in an epoch: 0.5 takes another half each epoch, 2 takes every row twice."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Which column is what, where the names tell nothing: `{prompt: frage, answer: antwort}`. The right names: prompt, input,
    answer, system, history, messages, tools, chosen, rejected, label, text."""

    @field_validator("columns")
    @classmethod
    def right_names(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if name not in COLUMNS:
                near = difflib.get_close_matches(name, COLUMNS, 1)
                hint = f"did you mean `{near[0]}`?" if near else "it is RIGHT-NAME: COLUMN-OF-THE-FILE"
                raise ValueError(f"`{name}` is none of {', '.join(COLUMNS)}; {hint}")
        return columns


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

    @field_validator("target", mode="before")
    @classmethod
    def all_or_names(cls, target: Any) -> Any:
        if target and (isinstance(target, str) or (isinstance(target, list) and all(isinstance(name, str) for name in target))):
            return target
        raise ValueError("this must be `all` or a list of layer names such as `[q_proj, v_proj]`")


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
    data: list[Source] = Field(min_length=1)
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
    validation: int | float | str | None = None
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

    @field_validator("data", mode="before")
    @classmethod
    def sources(cls, data: Any) -> Any:
        """One source may stand without its list, and a path without its `path:`."""
        given = data if isinstance(data, list) else [data]
        return [{"path": one} if isinstance(one, str) else one for one in given]

    @field_validator("objective", "adapter", "optimizer", mode="before")
    @classmethod
    def variant(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return as_variant(info.field_name, value)

    @field_validator("validation", mode="before")
    @classmethod
    def share_number_or_file(cls, held_out: Any) -> Any:
        if isinstance(held_out, str) and held_out:
            return held_out
        if isinstance(held_out, bool) or not isinstance(held_out, int | float | None):
            raise ValueError("this must be a share below 1, a whole number of rows, or a file")
        if held_out is None or held_out == 0:
            return None
        if not 0 < held_out < 1 and not (held_out >= 1 and float(held_out).is_integer()):
            raise ValueError(f"`{held_out}` is out of range: a share above 0 and below 1, a whole number of rows, or a file")
        return held_out if held_out < 1 else int(held_out)

    @field_validator("warmup", "evaluate_every", "save_every")
    @classmethod
    def share_or_steps(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and not value.is_integer():
            raise ValueError(f"`{value}` is neither a share below 1 nor a whole number of steps")
        return value

    @model_validator(mode="after")
    def agree(self) -> Config:
        """Settings that exclude each other: none of them wins in silence."""
        found = {key: text for key, wrong, text in contradictions(self) if wrong}
        if found:
            raise PydanticCustomError("contradictions", "{text}", {"text": "; ".join(found.values()), "found": found})
        return self


def contradictions(config: Config) -> list[tuple[str, bool, str]]:
    """(setting, whether it is wrong here, why and the way out)."""
    raw = config.objective.type == "pt"
    no_turns = "raw text (`objective: pt`) has no turns, so this would do nothing; leave it out"
    nothing = config.validation is None and not config.questions
    return [
        ("template", raw and config.template is not None, no_turns),
        ("reasoning", raw and config.reasoning != "keep", no_turns),
        ("questions", raw and bool(config.questions), no_turns),
        (
            "on_too_long",
            raw and config.on_too_long != "error",
            "raw text (`objective: pt`) is cut into blocks of `context` tokens, so no row is too long; leave it out",
        ),
        (
            "evaluate_every",
            config.evaluate_every is not None and nothing,
            "there is nothing to evaluate; hold rows out, for instance `validation: 0.1`, or give `questions`",
        ),
    ]


def variants() -> dict[str, dict[str, type[Section]]]:
    """The settings that have variants by `type`: `{"adapter": {"lora": Lora, ...}, ...}`."""
    return {"objective": {"sft": Sft, "pt": Pt}, "adapter": {"lora": Lora, "full": Full}, "optimizer": {"adamw": AdamW}}


def as_variant(key: str, value: Any) -> Any:
    """`lora` is `{type: lora}`, and a mapping without `type` means the default one."""
    if isinstance(value, str):
        return {"type": value}
    if isinstance(value, dict) and value.get("type") is None:
        return {**value, "type": Config.model_fields[key].default.type}
    return value
