"""From settings and rows to a job that the loop can run: the model, its layout, the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finery.config.load import dump_config
from finery.run import Run, write_json, write_text
from finery.train.progress import Console
from finery.train.settle import settle_device

if TYPE_CHECKING:
    import torch

    from finery.config.schema import Config
    from finery.data.prepare import Prepared
    from finery.train.loop import Job
    from finery.types import Message

FIXED_QUESTIONS = 2  # held-out prompts that are asked where the user gave no questions


def make_job(config: Config, run: Run, console: Console, prepared: Prepared, tokenizer: Any, threads: int | None = None) -> Job:
    """Load the model, choose the layout, set up the loop. `threads`: of the run that is resumed."""
    import torch
    from accelerate import Accelerator

    from finery.model.adapter import add_adapter
    from finery.model.load import load_model
    from finery.model.policy import Policy
    from finery.model.selfcheck import settle_layout
    from finery.train.checkpoint import save_checkpoint
    from finery.train.environment import differences, environment
    from finery.train.loop import Job
    from finery.train.objectives import OBJECTIVES
    from finery.train.optim import every, learning_rate_of, make_optimizer
    from finery.train.order import Order

    with console.busy(f"loading {config.model}"):
        if threads is not None:
            torch.set_num_threads(threads)
        model, about = load_model(config)
        model = add_adapter(model, config)
    for text in about.get("notes", ()):
        console.line(text)
    device = next(model.parameters()).device
    config = settle_device(config, device.type)
    write_text(run.config_file, dump_config(config))  # with what the device decided
    facts = environment(config.model, about)
    if threads is None:
        write_json(run.environment_file, {**facts, "rendering": rendering(prepared)})
    else:
        for text in differences(run.environment, facts):
            console.line(f"not as at the start: {text}; the weights may differ in their last bits", "yellow")
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=about.get("mixed_precision", "no"))
    policy = Policy(model)
    optimizer = make_optimizer(model, config, config.learning_rate or 0.0)
    report = settle_layout(policy, prepared.train, config.layout)
    run.event("layout", **report)
    console.line(report["sentence"])
    policy, optimizer = accelerator.prepare(policy, optimizer)

    order = Order(prepared.source_of_row, prepared.weights, config.batch_size, config.seed)
    steps = order.total_steps(config.epochs, config.max_steps)
    if order.rows_per_epoch < config.batch_size:
        console.line(
            f"note: an epoch has {order.rows_per_epoch} rows, fewer than batch_size {config.batch_size}: each step uses all"
        )

    def save(job: Job) -> None:
        state = {
            "step": job.step,
            "counters": dict(job.counters),
            "config": job.config.model_dump(),
            "threads": torch.get_num_threads(),
        }
        with console.busy("saving a checkpoint"):
            save_checkpoint(run, model, job.optimizer, state, config.keep_checkpoints)
        run.event("checkpoint", step=job.step)

    return Job(
        config=config,
        model=model,
        run=run,
        console=console,
        prepared=prepared,
        objective=OBJECTIVES[config.objective.type],
        order=order,
        accelerator=accelerator,
        policy=policy,
        optimizer=optimizer,
        learning_rate=learning_rate_of(config, config.learning_rate or 0.0, steps),
        steps=steps,
        evaluate_every=every(config.evaluate_every, steps, 0.25) if prepared.validation or config.questions else 0,
        save_every=every(config.save_every, steps, 0.25),
        save=save,
        answer=answerer(config, prepared, model, tokenizer),
        recheck_lengths=report["recheck_lengths"],
    )


def rendering(prepared: Prepared) -> dict[str, Any]:
    """What chat and serve need to send the same prompts as in training."""
    renderer = prepared.renderer
    if renderer is None:
        return {}
    return {"stop_ids": [int(i) for i in renderer.stop_ids], "thinking": renderer.mode_seen}


def answerer(config: Config, prepared: Prepared, model: torch.nn.Module, tokenizer: Any) -> Callable[[Job], None]:
    """What puts the model's answers to the fixed questions into samples.jsonl."""
    from finery.evaluate.samples import answer_questions

    renderer = prepared.renderer
    questions = fixed_questions(config, prepared) if renderer is not None else []

    def answer(job: Job) -> None:
        if renderer is None or not questions:
            return
        with job.console.busy("answering the fixed questions"):
            answers = answer_questions(model, tokenizer, renderer, questions)
        for messages, text in zip(questions, answers, strict=True):
            job.run.sample(step=job.step, question=messages[-1].content, answer=text)

    return answer


def fixed_questions(config: Config, prepared: Prepared) -> list[list[Message]]:
    """The user's questions, or the first turns of held-out rows."""
    from finery.types import Message

    if config.questions:
        return [[Message("user", text)] for text in config.questions]
    found = []
    for row in prepared.validation[:FIXED_QUESTIONS]:
        messages = [*row.example.prompt, *(row.example.answers[0] if row.example.answers else [])]
        turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
        if turns and not row.example.tools:
            found.append(messages[: turns[0]])
    return found
