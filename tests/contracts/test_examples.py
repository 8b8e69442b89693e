"""Contract 8: every example trains, and every command that the README and the docs show is one that runs."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from finery.cli import main, parse
from finery.config.load import load_config
from finery.run import open_run
from tests.tiny import make_model

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS_A_PERSON_OR_A_DOWNLOAD = ("demo", "resume", "stop")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("examples") / "model", max_position_embeddings=4096)


def test_there_are_examples_and_pages() -> None:
    assert len(EXAMPLES) >= 5 and len(PAGES) >= 8


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_its_command_and_is_read(path: Path) -> None:
    head = "".join(line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("#"))
    assert f"finery train examples/{path.name}" in head
    config = load_config(path)
    assert config.output == f"runs/{path.stem}"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_trains_two_steps(path: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert main(["train", str(path), f"model={model}", f"output={output}", "max_steps=2", "device=cpu"]) == 0
    run = open_run(output)
    assert [event["step"] for event in run.events() if event["event"] == "step"] == [1, 2]
    assert run.finished and run.status().state == "done"


def commands(page: Path) -> Iterator[str]:
    """Lines of code blocks that begin with one of our commands, without their comments."""
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            line = line.removeprefix("$ ").strip()
            if re.match(r"(\.venv/bin/)?finery |make ", line):
                yield re.sub(r"\s+#.*", "", line).removeprefix(".venv/bin/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_understood(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands(page):
        words = shlex.split(command)
        if words[0] == "make":
            assert set(words[1:]) <= targets, command
        else:
            parse(words[1:])  # leaves with code 2 where it is not understood


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))], ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_another(
    page: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder with the examples, on a tiny model and two steps. Words in capitals stand for something of the reader's."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        words = shlex.split(command)[1:]
        if command.startswith("make ") or words[0] in NEEDS_A_PERSON_OR_A_DOWNLOAD or re.search(r"\b[A-Z]{3,}\b", command):
            continue
        if words[0] in ("train", "check", "preview"):
            words = [word for word in words if not word.startswith("model=")] + [f"model={model}"]
        if words[0] == "train":
            words += ["max_steps=2", "device=cpu"]
        if words[0] == "chat":
            words += ["--message", "Hello", "--max-tokens", "4"]
        assert main(words) == 0, (command, capsys.readouterr().err)
        if words[0] == "train":
            assert "Traceback" not in capsys.readouterr().err
