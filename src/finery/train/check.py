"""`finery check` and `finery preview`: what a run would do with its data, before any weight is loaded."""

from __future__ import annotations

import json
import sys
from typing import Any

from finery.config.schema import Config
from finery.train.settle import settle


def check(config: Config, with_model: bool, as_json: bool) -> int:
    """Print the ledger and what the settings mean. Exit code 0 where a run could start.

    Where rows can't be used, the ledger with all of them is printed as JSON too before the error.
    """
    from finery.data.ledger import BadRows

    try:
        prepared, config = read(config, with_model)
    except BadRows as refusal:
        if as_json:
            print(json.dumps(refusal.ledger.to_json(), ensure_ascii=False))
        raise
    ledger = prepared.ledger
    meaning = what_it_means(config, prepared) if with_model else {}
    if as_json:
        print(json.dumps({**ledger.to_json(), **({"run": meaning} if meaning else {})}, ensure_ascii=False))
        return 0
    for line in ledger.lines():
        print(line)
    for name, value in meaning.items():
        print(f"{name.replace('_', ' '):18} {value}")
    if not with_model:
        print("no model was named, so lengths and masks are not checked; add model=FOLDER", file=sys.stderr)
    return 0


def preview(config: Config, as_json: bool, count: int | None) -> int:
    """Print sequences with the loss weight of each token: JSON lines, or trained tokens in colour and underlined."""
    from finery.data.preview import records, show

    prepared, _, tokenizer = read_with_tokenizer(config)
    if not as_json:
        show(prepared, tokenizer, 5 if count is None else count)
        return 0
    for number, record in enumerate(records(prepared, tokenizer)):
        if count is not None and number >= count:
            break
        print(json.dumps(record, ensure_ascii=False))
    return 0


def read(config: Config, with_model: bool) -> tuple[Any, Config]:
    """The prepared data; without a model only the formats are looked at."""
    if with_model:
        prepared, config, _ = read_with_tokenizer(config)
        return prepared, config
    from finery.data.prepare import prepare

    return prepare(config, None, []), config


def read_with_tokenizer(config: Config) -> tuple[Any, Config, Any]:
    from finery.data.prepare import prepare
    from finery.model.load import load_tokenizer

    config = settle(config)
    tokenizer, stop_ids = load_tokenizer(config.model)
    return prepare(config, tokenizer, stop_ids), config, tokenizer


def what_it_means(config: Config, prepared: Any) -> dict[str, Any]:
    """The settings in steps and tokens."""
    from finery.train.optim import warmup_steps
    from finery.train.order import plan

    order, steps, evaluate_every, save_every = plan(config, prepared)
    return {
        "rows_per_epoch": order.rows_per_epoch,
        "steps_per_epoch": order.steps_per_epoch,
        "steps": steps,
        "warmup_steps": warmup_steps(config.warmup, steps),
        "learning_rate": config.learning_rate,
        "context": config.context,
        "save_every": save_every,
        "evaluate_every": evaluate_every,
        "output": config.output,
    }
