"""Whether a run can go on as if nothing had happened: its settings, its data, its base model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finery.errors import RunError

if TYPE_CHECKING:
    from finery.config.schema import Config
    from finery.data.prepare import Prepared
    from finery.run import Run

# Settings that a resume may change: they leave the weights, the rows and their order what they were.
CHANGEABLE = frozenset(
    "output epochs max_steps learning_rate schedule warmup weight_decay clip tokens_per_pass evaluate_every save_every "
    "keep_checkpoints questions device layout".split()
)


def changed_settings(before: Config, now: Config, run: Run) -> list[str]:
    """Each setting that differs from the checkpoint's, `name old -> new`; RunError where one decides rows or weights."""
    old, new = before.model_dump(), now.model_dump()
    changed = [name for name in new if old[name] != new[name] and name not in ("output", "tokens_per_pass")]
    if refused := [name for name in changed if name not in CHANGEABLE]:
        shown = "; ".join(f"{name}: {old[name]!r} -> {new[name]!r}" for name in refused)
        raise RunError(
            f"these settings can't change in the middle of a run: {shown}",
            str(run.config_file),
            "take the old value back, or train a new run with another `output`",
        )
    return [f"{name} {old[name]} -> {new[name]}" for name in changed]


def same_data(old: dict[str, Any], prepared: Prepared, run: Run) -> None:
    """RunError unless every source has the bytes that the run began with."""
    now = {source["path"]: source.get("sha256") for source in prepared.ledger.to_json()["sources"]}
    was = {source["path"]: source.get("sha256") for source in old.get("sources", [])}
    if now != was:
        changed = sorted(path for path in now.keys() | was.keys() if now.get(path) != was.get(path))
        raise RunError(
            f"the data has changed since the run began: {', '.join(changed)}",
            str(run.ledger_file),
            "put the old file back, or train a new run with another `output`",
        )
