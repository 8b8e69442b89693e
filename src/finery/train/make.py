"""From settings and rows to a job that the loop can run: the model, its layout, the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finery.config.load import dump_config
from finery.run import Run, write_json, write_text
from finery.train.progress import Console
from finery.train.settle import settle_device

if TYPE_CHECKING:
    from finery.config.schema import Config
    from finery.data.prepare import Prepared
    from finery.train.loop import Job
    from finery.types import Message

FIXED_QUESTIONS = 2  # held-out prompts that are asked where the user gave no questions


def make_job(config: Config, run: Run, console: Console, prepared: Prepared, tokenizer: Any, threads: int | None = None) -> Job:
    """Load the model, choose the layout, set up the loop. `threads`: of the run that is resumed."""
    import torch
    from accelerate import Accelerator

    from finery.model.policy import Policy
    from finery.model.selfcheck import settle_layout
    from finery.train.loop import Job
    from finery.train.objectives import OBJECTIVES
    from finery.train.optim import learning_rate_of, make_optimizer
    from finery.train.order import plan

    model, about = trainable_model(config, console, threads)
    config = settle_device(config, about["device"])
    write_text(run.config_file, dump_config(config))  # with what the device decided
    keep_environment(config, run, console, prepared, about, resumed=threads is not None)
    on_cpu = about["device"] == "cpu"
    if on_cpu:
        torch.use_deterministic_algorithms(True)
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=about["mixed_precision"])
    policy = Policy(model)
    report = settle_layout(policy, prepared.train, config.layout)
    run.event("layout", **report)
    console.line(report["sentence"])
    policy, optimizer = accelerator.prepare(policy, make_optimizer(model, config))
    order, steps, evaluate_every, save_every = plan(config, prepared)
    if order.rows_per_epoch < config.batch_size:
        few = f"an epoch has {order.rows_per_epoch} rows, fewer than batch_size {config.batch_size}"
        console.line(f"note: {few}: each step uses all")
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
        learning_rate=learning_rate_of(config, steps),
        steps=steps,
        evaluate_every=evaluate_every,
        save_every=save_every,
        tokenizer=tokenizer,
        questions=fixed_questions(config, prepared),
        recheck_lengths=report["recheck_lengths"],
    )


def trainable_model(config: Config, console: Console, threads: int | None) -> tuple[Any, dict[str, Any]]:
    """The model on its device with its adapter, and how it was loaded; computed with `threads` where that is given."""
    import torch

    from finery.model.adapter import add_adapter
    from finery.model.load import load_model

    if threads is not None:
        torch.set_num_threads(threads)
    with console.busy(f"loading {config.model}"):
        model, about = load_model(config)
        model = add_adapter(model, config)
    for text in about["notes"]:
        console.line(text)
    return model, about


def keep_environment(
    config: Config, run: Run, console: Console, prepared: Prepared, about: dict[str, Any], resumed: bool
) -> None:
    """Write down what the run depends on, or say what is no longer as it was when it started."""
    from finery.train.environment import differences, environment

    facts = environment(config.model, about)
    if not resumed:
        write_json(run.environment_file, {**facts, "rendering": rendering(prepared)})
        return
    for text in differences(run.environment, facts):
        console.line(f"not as at the start: {text}; the weights may differ in their last bits", "yellow")


def rendering(prepared: Prepared) -> dict[str, Any]:
    """What chat and serve need to send the same prompts as in training."""
    renderer = prepared.renderer
    if renderer is None:
        return {}
    return {"stop_ids": [int(i) for i in renderer.stop_ids], "thinking": renderer.mode_seen}


def fixed_questions(config: Config, prepared: Prepared) -> list[list[Message]]:
    """The user's questions, or the first turns of held-out rows."""
    from finery.types import Message

    if prepared.renderer is None:  # raw text: there is no template to ask with
        return []
    if config.questions:
        return [[Message("user", text)] for text in config.questions]
    found = []
    for row in prepared.validation[:FIXED_QUESTIONS]:
        messages = [*row.example.prompt, *(row.example.answers[0] if row.example.answers else [])]
        turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
        if turns and not row.example.tools:
            found.append(messages[: turns[0]])
    return found
