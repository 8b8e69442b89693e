"""The command line: help at once, errors in three lines, exit codes, JSON for each table."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finery.cli import main, parse
from tests.tiny import make_model, write_rows

LIMIT_CPU_SECONDS = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cli")
    make_model(made / "model")
    write_rows(made / "rows.jsonl")
    return made


def run_yaml(folder: Path, **settings: object) -> str:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"model": "model", "data": "rows.jsonl", "epochs": 1, "batch_size": 4, **settings}))
    return str(path)


@pytest.mark.parametrize("words", [["--help"], ["version"], ["train", "--help"]])
def test_help_answers_at_once(words: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "finery.cli", *words], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.strip()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LIMIT_CPU_SECONDS


def test_nothing_heavy_is_imported_for_help() -> None:
    heavy = ("torch", "transformers", "numpy", "pyarrow", "pydantic", "rich")
    code = f"import sys, finery.cli; finery.cli.parser(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_error_is_told_in_lines_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "nothing.yaml")]) == 2
    told = capsys.readouterr().err
    assert "nothing.yaml" in told and "Traceback" not in told and len(told.splitlines()) <= 6
    assert main(["train", str(tmp_path / "nothing.yaml"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_train_runs_and_chat_over_one_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "out"
    assert main(["train", run_yaml(folder, validation=2), f"output={output}", "--json"]) == 0
    ended = json.loads(capsys.readouterr().out)
    assert ended["state"] == "done" and ended["step"] == ended["steps"] and "held_out_loss" in ended
    assert main(["runs", str(folder)]) == 0
    assert "done" in capsys.readouterr().out
    assert main(["runs", str(folder), "--json"]) == 0
    assert [record["state"] for record in json.loads(capsys.readouterr().out)] == ["done"]
    assert main(["runs", str(output)]) == 0
    assert "held-out loss" in capsys.readouterr().out
    assert main(["chat", str(output), "--message", "Name 1?", "--max-tokens", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])


def test_check_says_what_the_settings_mean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", run_yaml(folder, validation=2), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows_in"], found["trained"], found["validation"]) == (12, 10, 2)
    assert found["run"]["steps"] == 3
    assert main(["check", str(folder / "rows.jsonl")]) == 0
    assert "12" in capsys.readouterr().out


def test_check_prints_the_ledger_of_a_refusal_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "answer": "Yes."}\n{"prompt": "Hi", "answer": null}\nno JSON\n')
    assert main(["check", str(tmp_path / "rows.jsonl"), "--json"]) == 2
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["rows_in"], sum(found["dropped"].values())) == (3, 2)
    assert [problem["origin"] for problem in found["problems"]] == ["rows.jsonl:2", "rows.jsonl:3"]
    assert "rows.jsonl:2" in told.err and "on_bad_row=drop" in told.err


def test_preview_prints_the_mask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preview", str(folder / "rows.jsonl"), f"model={folder / 'model'}", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(records) == 12
    for record in records:
        assert record.keys() == {"origin", "ids", "loss", "text"} and len(record["ids"]) == len(record["loss"])
        assert record["loss"][-1] >= 0 and 1.0 in record["loss"] and 0.0 in record["loss"]
    assert main(["preview", run_yaml(folder), "--rows", "2"]) == 0
    assert "Name" in capsys.readouterr().out


def test_a_file_that_is_not_a_language_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    assert main(["train", run_yaml(folder), f"model={tmp_path / 'bert'}", f"output={tmp_path / 'out'}"]) == 2
    told = capsys.readouterr().err
    assert "bert" in told and "Traceback" not in told


def test_output_survives_a_terminal_without_unicode(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "数据 🙂.jsonl"
    rows.write_text('{"instruction": "你好", "output": "你好！🙂"}\n', encoding="utf-8")
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "HOME": str(tmp_path)}
    words = [sys.executable, "-m", "finery.cli", "preview", str(rows), f"model={folder / 'model'}"]
    done = subprocess.run(words, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr


def test_settings_may_stand_before_and_after_options() -> None:
    for words in (["a=1", "--json", "b=2"], ["--json", "a=1", "b=2"], ["a=1", "b=2", "--json"]):
        arguments = parse(["train", "run.yaml", *words])
        assert (arguments.settings, arguments.json) == (["a=1", "b=2"], True)
    for words in (["runs", "a", "b"], ["train", "run.yaml", "--jsno"], ["version", "x"]):
        with pytest.raises(SystemExit) as left:
            parse(words)
        assert left.value.code == 2
