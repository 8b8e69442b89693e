"""The command line: one function per command. Nothing heavy is imported before a command needs it, so help answers at once."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import FineryError

if TYPE_CHECKING:
    from finery.config.schema import Config

INTERRUPTED = 130

SETTINGS = """settings: KEY=VALUE overrides the YAML, for instance `learning_rate=1e-4 adapter.rank=32`;
`finery schema` prints all of them with their meaning."""

EPILOG = """the usual way:
  finery demo                          fine-tune a small real model in a few minutes and see before and after
  finery check data.jsonl              read your data: format, dropped rows with file and line, what would be learned
  finery train run.yaml                fine-tune; the run folder holds everything
  finery chat runs/run --compare       talk to the result beside the base model

exit codes: 0 done, 1 failed, 2 something in your input is wrong, 130 interrupted (state saved)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors are told in a few lines on stderr, a traceback only with --debug."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that can't show a letter must not end the program
    # Threads that spin while they wait starve each other where other programs share the cores (docs/log.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = parse(argv)
    try:
        return int(arguments.command(arguments) or 0)
    except FineryError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"finery: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("finery: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `finery preview ... | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        text = str(error).strip()
        print(f"finery: {type(error).__name__}: {text[:2000]}", file=sys.stderr)
        print("  way out: this is most likely a fault of Finery; `--debug` shows where, please report it", file=sys.stderr)
        return 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; settings may stand after options too, where argparse leaves them over (python/cpython#87139)."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if rest and (not hasattr(arguments, "settings") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.settings = [*arguments.settings, *rest]
    return arguments


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        "finery", description="Fine-tune language models from one YAML file.", epilog=EPILOG, formatter_class=raw
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int | None], help_: str, **more: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help_, description=more.pop("description", help_), formatter_class=raw, **more)
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        made.set_defaults(command=command)
        return made

    made = add("train", train, "fine-tune a model as a YAML file says", epilog=SETTINGS)
    made.add_argument("config", metavar="RUN.yaml")
    made.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    made.add_argument("--json", action="store_true", help="print the result as JSON")

    made = add("resume", resume, "go on with a run from its newest checkpoint", epilog=SETTINGS)
    made.add_argument("run", metavar="RUN")
    made.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    made.add_argument("--json", action="store_true", help="print the result as JSON")

    made = add("runs", runs, "list runs, or show one")
    made.add_argument("folder", nargs="?", default="runs", metavar="RUN", help="a run, or a folder of runs (runs)")
    made.add_argument("--json", action="store_true", help="print JSON")

    made = add("stop", stop, "ask a run to save a checkpoint and leave")
    made.add_argument("run", metavar="RUN")
    made.add_argument("--no-wait", action="store_true", help="don't wait until it has left")

    for name, command, help_ in (
        ("check", check, "read the data and say what would be trained, before anything is loaded"),
        ("preview", preview, "show what the model would learn, token by token"),
    ):
        made = add(name, command, help_, epilog=SETTINGS)
        made.add_argument("target", metavar="RUN.yaml|DATA")
        made.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="for instance model=FOLDER")
        made.add_argument("--json", action="store_true", help="print JSON: a ledger, or one line per sequence")
        if name == "preview":
            made.add_argument("--rows", type=int, help="how many sequences to show (5 on a terminal, all with --json)")

    made = add("chat", chat, "talk to a run or a model in the terminal")
    made.add_argument("target", metavar="RUN|MODEL")
    made.add_argument("--compare", action="store_true", help="show the base model's answer beside the tuned one's")
    made.add_argument("--message", action="append", metavar="TEXT", help="ask this and leave; can be given several times")
    made.add_argument("--system", metavar="TEXT", help="the system message")
    made.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token each time (0)")
    made.add_argument("--max-tokens", type=int, default=512, help="longest answer (512)")
    made.add_argument("--seed", type=int, default=None, help="makes answers at a temperature above 0 repeatable")
    made.add_argument("--json", action="store_true", help="print one JSON object per answer")

    made = add("demo", demo, "fine-tune a small real chat model on bundled data and show before and after")
    made.add_argument("--model", metavar="M", help="another model: a folder or a hub name")
    made.add_argument("--out", metavar="DIR", help="the run folder (runs/demo)")
    made.add_argument("--model-only", action="store_true", help="only fetch the model and print its folder")
    made.add_argument("--json", action="store_true", help="print the result as JSON")

    made = add("doctor", doctor, "look at this machine: versions, devices, memory, disk")
    made.add_argument("--json", action="store_true", help="print JSON")

    add("schema", schema, "print the JSON schema of the settings, for editors")
    add("version", version, "print the version")
    return top


# --- one function per command ------------------------------------------------------------------------------------------------


def train(arguments: argparse.Namespace) -> int:
    from finery.config.load import load_config
    from finery.train.start import train as start

    return report(start(load_config(arguments.config, arguments.settings)), arguments.json)


def resume(arguments: argparse.Namespace) -> int:
    from finery.train.start import resume as start

    return report(start(arguments.run, arguments.settings), arguments.json)


def report(run: Any, as_json: bool) -> int:
    """Say how the run ended; the exit code."""
    from finery.status import summary

    ended = summary(run)
    if as_json:
        print(json.dumps(ended, ensure_ascii=False))
    elif ended["state"] == "done":
        print(f"next: finery chat {run.folder} --compare")
    return 0 if ended["state"] == "done" else INTERRUPTED


def runs(arguments: argparse.Namespace) -> int:
    from finery.status import show_runs

    return show_runs(Path(arguments.folder), arguments.json)


def stop(arguments: argparse.Namespace) -> int:
    from finery.status import stop_run

    return stop_run(arguments.run, wait=not arguments.no_wait)


def check(arguments: argparse.Namespace) -> int:
    from finery.train.check import check as look

    config, with_model = target_config(arguments)
    return look(config, with_model, arguments.json)


def preview(arguments: argparse.Namespace) -> int:
    from finery.train.check import preview as show

    config, _ = target_config(arguments)
    return show(config, arguments.json, arguments.rows)


def target_config(arguments: argparse.Namespace) -> tuple[Config, bool]:
    """Settings of a YAML file, or of a data file with the rest on the command line; and whether a model is named."""
    from finery.config.load import config_from_dict, load_config

    if Path(arguments.target).suffix.lower() in (".yaml", ".yml"):
        return load_config(arguments.target, arguments.settings), True
    with_model = any(setting.startswith("model=") for setting in arguments.settings)
    values = {"data": str(Path(arguments.target).absolute())}
    return config_from_dict(values if with_model else {**values, "model": "none"}, arguments.settings), with_model


def chat(arguments: argparse.Namespace) -> int:
    from finery.infer.chat import chat as talk

    return talk(
        arguments.target,
        compare=arguments.compare,
        messages=arguments.message,
        system=arguments.system,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
        as_json=arguments.json,
    )


def demo(arguments: argparse.Namespace) -> int:
    from finery.demo import run

    return run(model=arguments.model, out=arguments.out, model_only=arguments.model_only, as_json=arguments.json)


def doctor(arguments: argparse.Namespace) -> int:
    from finery.doctor import doctor as look

    return look(arguments.json)


def schema(arguments: argparse.Namespace) -> int:
    from finery.config.load import json_schema

    print(json.dumps(json_schema(), ensure_ascii=False, indent=2))
    return 0


def version(arguments: argparse.Namespace) -> int:
    from importlib.metadata import version as installed

    print(installed("finery"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
