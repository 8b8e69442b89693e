"""The verbs `train` and `resume`: from settings to a finished run folder. Cheap checks come first, the model last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import FineryError, RunError
from finery.run import Run, new_run, open_run, read_json, step_of, write_json, write_text
from finery.train.compare import changed_settings, same_data
from finery.train.progress import Console
from finery.train.settle import settle
from finery.train.signals import Stop, listening

if TYPE_CHECKING:
    from finery.config.schema import Config
    from finery.data.prepare import Prepared
    from finery.train.loop import Job


def train(config: Config, console: Console | None = None) -> Run:
    """Train a new run and return it: Run.status() tells how it ended. FineryError where something can't be used."""
    console = console or Console()
    config = settle(config)
    tokenizer, prepared = read_data(config, console)
    assert config.output is not None
    with new_run(Path(config.output), config) as run, recorded(run), listening(console.line) as stop:
        console.log_file = run.log_file
        write_json(run.ledger_file, prepared.ledger.to_json())
        console.line(f"run folder {run.folder}")
        from finery.train.make import make_job

        job = make_job(config, run, console, prepared, tokenizer)
        run.event("start", step=0, steps=job.steps, rows=len(prepared.train), validation_rows=len(prepared.validation))
        follow(job, tokenizer, stop)
    return run


def resume(folder: Path | str, overrides: Sequence[str] = (), console: Console | None = None) -> Run:
    """Go on from the newest checkpoint, exactly: the same weights as if nothing had happened, bit for bit on a CPU.

    RunError where there is no checkpoint, or the data, the base model or a setting that decides the weights has changed.
    """
    from finery.config.load import config_from_dict, dump_config, load_config
    from finery.model.load import refuse_other_base
    from finery.train.checkpoint import read_state

    console = console or Console()
    run = open_run(folder)
    with run.own(), listening(console.line) as stop:
        saved = run.checkpoints()
        if not saved:
            way_out = f"start it with `finery train {run.config_file}`"
            raise RunError("this run has no checkpoint to go on from", str(run.folder), way_out)
        state = read_state(saved[-1])
        before = config_from_dict(state["config"], files_must_exist=False)
        config = settle(load_config(run.config_file, overrides))
        config = config.model_copy(update={"output": str(run.folder)})
        changed = changed_settings(before, config, run)
        tokenizer, prepared = read_data(config, console)
        same_data(read_json(run.ledger_file), prepared, run)
        refuse_other_base(config.model, run.environment, "put the old model back, or train a new run with another `output`")
        console.log_file = run.log_file  # from here on the run is written; what is refused above leaves it as it was
        for text in changed:
            console.line(f"changed: {text}", "yellow")
        write_text(run.config_file, dump_config(config))
        go_on(run, config, console, prepared, tokenizer, stop, saved[-1], state)
    return run


def go_on(
    run: Run,
    config: Config,
    console: Console,
    prepared: Prepared,
    tokenizer: Any,
    stop: Stop,
    checkpoint: Path,
    state: dict[str, Any],
) -> None:
    """Load the model and the checkpoint, and follow the run to its end."""
    from finery.train.checkpoint import load_checkpoint
    from finery.train.make import make_job

    with recorded(run):
        job = make_job(config, run, console, prepared, tokenizer, threads=state["threads"])
        load_checkpoint(checkpoint, job.model, job.optimizer)
        job.step = state["step"]
        job.counters.update(state["counters"])
        ended = next((event["event"] for event in reversed(list(run.events())) if event["event"] != "layout"), "")
        if job.step >= job.steps and run.finished and ended == "end":
            console.line(f"nothing to do: the run is done after {job.step} steps; more with `epochs=...` or `max_steps=...`")
            return
        run.event("resume", step=job.step, steps=job.steps)
        console.line(f"resumed at step {job.step} of {job.steps}")
        follow(job, tokenizer, stop)


def follow(job: Job, tokenizer: Any, stop: Stop) -> None:
    """Run the loop, then write the final weights or say why it stopped early."""
    from finery.train.finish import save_final
    from finery.train.loop import rows_met, run_loop, save_checkpoint

    run, console = job.run, job.console
    with console.training(job.step, job.steps):
        reason = run_loop(job, lambda: stop.why or ("`finery stop`" if run.stop_requested() else ""))
    if reason:
        if job.step and (not run.checkpoints() or step_of(run.checkpoints()[-1]) != job.step):
            save_checkpoint(job)
        run.event("stop", step=job.step, steps=job.steps, why=reason)
        hint = (
            f"go on with `finery resume {run.folder}`" if job.step else f"start it again with `finery train {run.config_file}`"
        )
        console.line(f"stopped at step {job.step} of {job.steps} ({reason}); {hint}", "yellow")
        return
    with console.busy("writing the final weights"):
        save_final(job, tokenizer)
    job.prepared.ledger.seen = sum(1 for _ in rows_met(job.order, job.step))
    write_json(run.ledger_file, job.prepared.ledger.to_json())
    run.event("end", step=job.step, steps=job.steps, **job.counters)
    console.line(f"done: {job.step} steps, final weights in {run.final_folder}", "green")


def read_data(config: Config, console: Console) -> tuple[Any, Prepared]:
    """The tokenizer, and the rows with their ledger shown."""
    from finery.data.prepare import prepare
    from finery.model.load import load_tokenizer

    tokenizer, stop_ids = load_tokenizer(config.model)
    with console.busy("reading the data"):
        prepared = prepare(config, tokenizer, stop_ids)
    for text in prepared.ledger.lines():
        console.line(text)
    return tokenizer, prepared


@contextlib.contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Whatever ends the run is an event in its folder too."""
    try:
        yield
    except KeyboardInterrupt:
        run.event("stop", why="interrupted twice: left without saving")
        raise
    except FineryError as error:
        run.event("error", what=error.what, where=error.where, way_out=error.way_out)
        raise
    except Exception as error:
        run.event("error", what=f"{type(error).__name__}: {error}"[:2000])
        raise
