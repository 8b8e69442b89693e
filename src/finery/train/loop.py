"""The loop: one for every objective. Rows become passes, passes become gradients, gradients become one step.

    loss of a step = sum over terms of (sum over all passes) / (denominator counted over the whole step before its first pass)

so the way a step is cut into passes never changes the update. A finite check precedes every update.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from finery.data.batch import to_batch
from finery.data.pack import pack, plan_passes
from finery.errors import TrainingError
from finery.evaluate.samples import answer_questions
from finery.model.selfcheck import recheck
from finery.run import Run
from finery.train.checkpoint import save_checkpoint as write_checkpoint
from finery.train.order import Order
from finery.train.progress import Console
from finery.types import Batch, Loss, Message, Row

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finery.config.schema import Config
    from finery.data.prepare import Prepared


Sums = defaultdict[str, float]  # of a step, over its passes


@dataclass
class Job:
    """All that a training owns while it runs. `step` is the number of optimizer steps done."""

    config: Config
    model: torch.nn.Module  # with its adapter, as saved
    run: Run
    console: Console
    prepared: Prepared
    objective: ModuleType
    order: Order
    accelerator: Accelerator
    policy: torch.nn.Module  # as accelerate prepared it: Batch -> Scores
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    steps: int
    evaluate_every: int  # steps; 0: never
    save_every: int  # steps
    tokenizer: Any
    questions: list[list[Message]]  # the fixed ones, answered at each evaluation
    recheck_lengths: list[int]  # limits in tokens that the self-check has not crossed yet
    step: int = 0
    counters: Counter[str] = field(
        default_factory=Counter
    )  # tokens computed, tokens in rows, tokens trained; over the whole run


def run_loop(job: Job, stop_wanted: Callable[[], str]) -> str:
    """Train to the last step. Returns why it stopped before, or "" when it is done."""
    if job.step == 0:
        evaluate_and_answer(job)
    while job.step < job.steps:
        if reason := stop_wanted():
            return reason
        numbers = train_step(job)
        job.run.event("step", **numbers)
        job.run.beat(job.step)
        job.console.step(numbers)
        last = job.step == job.steps
        if job.evaluate_every and (last or job.step % job.evaluate_every == 0):
            evaluate_and_answer(job)
        if last or job.step % job.save_every == 0:
            save_checkpoint(job)
    return ""


def train_step(job: Job) -> dict[str, Any]:
    """One optimizer step over `batch_size` rows; returns its numbers for events.jsonl."""
    started = time.perf_counter()
    settings = job.config.objective
    indices = job.order.rows(job.step)
    rows = [job.prepared.train[i] for i in indices]
    recheck_layout(job, rows)
    denominators = job.objective.denominators(rows, settings)
    passes = plan_passes([row.tokens for row in rows], tokens_per_pass(job))
    sums: Sums = defaultdict(float)
    job.policy.train()
    for number, chosen in enumerate(passes):
        batch = to_batch(pack([rows[i] for i in chosen])).to(job.accelerator.device)
        torch.manual_seed(seed_of_pass(job.config.seed, job.step, number))
        with sync_on_last(job, number == len(passes) - 1):
            loss = job.objective.loss(job.policy(batch, job.objective.NEEDS), batch, settings)
            job.accelerator.backward(scaled(loss, denominators))
        add_up(sums, loss, batch)
    gradient_norm = finish_step(job, sums, indices)
    job.step += 1
    seconds = time.perf_counter() - started
    job.counters.update(
        tokens=int(sums["tokens"]), row_tokens=int(sums["row_tokens"]), trained_tokens=int(sums["trained_tokens"])
    )
    return {
        "step": job.step,
        "steps": job.steps,
        "epoch": round(job.step / job.order.steps_per_epoch, 4),
        **means(sums, denominators),
        "learning_rate": job.learning_rate(job.step - 1),
        "gradient_norm": gradient_norm,
        "rows": len(rows),
        "passes": len(passes),
        "tokens": int(sums["tokens"]),
        "row_tokens": int(sums["row_tokens"]),
        "trained_tokens": int(sums["trained_tokens"]),
        "seconds": round(seconds, 4),
        "tokens_per_second": round(sums["row_tokens"] / seconds, 1),
        "memory_bytes": peak_memory_bytes(job.accelerator.device),
    }


def finish_step(job: Job, sums: Sums, indices: list[int]) -> float:
    """Clip, check that everything is finite, update. Returns the gradient's length before clipping."""
    trained = [p for p in job.policy.parameters() if p.requires_grad]
    limit = job.config.clip if job.config.clip is not None else math.inf
    norm = float(job.accelerator.clip_grad_norm_(trained, limit))
    terms = {name: value for name, value in sums.items() if name.startswith("term:")}
    scaler_skips = (
        job.accelerator.scaler is not None
    )  # float16: a step with infinite gradients is skipped and the scale lowered
    if not all(map(math.isfinite, terms.values())) or not (math.isfinite(norm) or scaler_skips):
        job.optimizer.zero_grad(set_to_none=True)
        origins = ", ".join(job.prepared.train[i].example.origin for i in indices[:8])
        raise TrainingError(
            f"step {job.step + 1}: loss or gradient is not finite (loss {terms}, gradient {norm}); nothing was updated",
            f"its rows: {origins}{' ...' if len(indices) > 8 else ''}",
            "a smaller learning_rate, a longer warmup, or another dtype; look at those rows with `finery preview`",
        )
    rate = job.learning_rate(job.step)
    for group in job.optimizer.param_groups:
        group["lr"] = rate
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=True)
    return norm


@torch.no_grad()
def evaluate(job: Job) -> dict[str, float]:
    """Mean of each term and metric over the held-out rows."""
    rows, settings = job.prepared.validation, job.config.objective
    sums: Sums = defaultdict(float)
    job.policy.eval()
    recheck_layout(job, rows)
    for chosen in plan_passes([row.tokens for row in rows], tokens_per_pass(job)):
        batch = to_batch(pack([rows[i] for i in chosen])).to(job.accelerator.device)
        add_up(sums, job.objective.loss(job.policy(batch, job.objective.NEEDS), batch, settings), batch)
    return means(sums, job.objective.denominators(rows, settings))


def evaluate_and_answer(job: Job) -> None:
    """The evaluation loss where rows are held out, and answers to the fixed questions."""
    if job.prepared.validation:
        with job.console.busy(f"evaluating {len(job.prepared.validation)} held-out rows"):
            numbers = evaluate(job)
        job.run.event("evaluate", step=job.step, **numbers)
        job.console.evaluation(job.step, numbers)
    if job.questions:
        answer_fixed_questions(job)


def answer_fixed_questions(job: Job) -> None:
    """The model's answers to the fixed questions, into samples.jsonl."""
    assert job.prepared.renderer is not None  # without one there are no questions
    with job.console.busy("answering the fixed questions"):
        answers = answer_questions(job.model, job.tokenizer, job.prepared.renderer, job.questions)
    for messages, text in zip(job.questions, answers, strict=True):
        job.run.sample(step=job.step, question=messages[-1].content, answer=text)


def save_checkpoint(job: Job) -> None:
    """All that a resume needs, as it is after `job.step` steps."""
    state = {
        "step": job.step,
        "counters": dict(job.counters),
        "config": job.config.model_dump(),
        "threads": torch.get_num_threads(),
    }
    with job.console.busy("saving a checkpoint"):
        write_checkpoint(job.run, job.model, job.optimizer, state, job.config.keep_checkpoints)
    job.run.event("checkpoint", step=job.step)


# --- small parts -----------------------------------------------------------------------------------------------------------


def tokens_per_pass(job: Job) -> int:
    assert job.config.tokens_per_pass is not None  # settled for the device
    return job.config.tokens_per_pass


def scaled(loss: Loss, denominators: dict[str, float]) -> torch.Tensor:
    """This pass's part of the step's loss."""
    parts: Iterable[torch.Tensor] = (total / denominators[name] for name, (total, _, _) in loss.terms.items())
    return sum(parts, torch.zeros(()))


def add_up(sums: Sums, loss: Loss, batch: Batch) -> None:
    """Add a pass to the sums of its step."""
    for name, (total, _, _) in loss.terms.items():
        sums[f"term:{name}"] += float(total.detach())
    for name, (value, count) in loss.metrics.items():
        sums[f"metric:{name}"] += value
        sums[f"count:{name}"] += count
    sums["tokens"] += len(batch.ids)
    sums["row_tokens"] += batch.sequence_tokens
    sums["trained_tokens"] += int((batch.weight > 0).sum())


def means(sums: Sums, denominators: dict[str, float]) -> dict[str, float]:
    """`loss`, each term where there are several, and each metric, from the sums of a step."""
    terms = {name: sums[f"term:{name}"] / value for name, value in denominators.items()}
    metrics = {
        name.removeprefix("metric:"): value / max(1.0, sums[name.replace("metric:", "count:")])
        for name, value in sums.items()
        if name.startswith("metric:")
    }
    return {"loss": sum(terms.values()), **(terms if len(terms) > 1 else {}), **metrics}


def recheck_layout(job: Job, rows: list[Row]) -> None:
    """The self-check, again, where a row first goes beyond a window or the rope's original length."""
    if not job.recheck_lengths:
        return
    report = recheck(job.accelerator.unwrap_model(job.policy), rows, job.recheck_lengths, job.config.layout)
    if report is not None:
        job.recheck_lengths = report["recheck_lengths"]
        job.run.event("layout", **report)
        job.console.line(report["sentence"])


def sync_on_last(job: Job, last: bool) -> Any:
    """Gradients are exchanged between devices once a step, in its last pass."""
    import contextlib

    return contextlib.nullcontext() if last else job.accelerator.no_sync(job.policy)


def seed_of_pass(seed: int, step: int, number: int) -> int:
    """What dropout starts from: a pure function, so there is no random state to save."""
    return (seed * 1_000_003 + step * 4_099 + number + 1) % 2**63


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held: on a GPU of its memory, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def rows_met(order: Order, steps: int) -> Iterator[int]:
    """Each row that the optimizer has met in the first `steps` steps, once."""
    met: set[int] = set()
    for step in range(steps):
        met.update(order.rows(step))
    yield from sorted(met)
