"""`finery chat`: a run and its base side by side, lines of stdin, a context that fills up."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import yaml

from finery.cli import main
from tests.tiny import make_model, write_rows


@pytest.fixture(scope="module", params=["lora", "full"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(f"chat_{request.param}")
    make_model(folder / "model", max_position_embeddings=96)
    write_rows(folder / "rows.jsonl")
    values = {"model": "model", "data": "rows.jsonl", "adapter": request.param, "epochs": 8, "learning_rate": 1e-2}
    (folder / "run.yaml").write_text(yaml.safe_dump({**values, "output": str(folder / "run")}))
    assert main(["train", str(folder / "run.yaml")]) == 0
    return folder / "run"


def test_tuned_beside_base(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--message", "Name 1?", "--max-tokens", "8", "--json"]
    assert main(["chat", str(run), "--compare", *words]) == 0
    both = json.loads(capsys.readouterr().out)
    assert main(["chat", str(run.parent / "model"), *words]) == 0
    base = json.loads(capsys.readouterr().out)
    assert main(["chat", str(run), *words]) == 0
    tuned = json.loads(capsys.readouterr().out)
    assert both["base_answer"] == base["answer"] != tuned["answer"] == both["answer"]


def test_lines_of_stdin(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Name 1?\n\nName 2?\n/exit\nName 3?\n"))
    assert main(["chat", str(run), "--max-tokens", "4", "--json"]) == 0
    assert [json.loads(line)["question"] for line in capsys.readouterr().out.splitlines()] == ["Name 1?", "Name 2?"]


def test_a_full_context_forgets_the_oldest_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [word for number in range(9) for word in ("--message", f"Name {number}?")]
    assert main(["chat", str(run), *messages, "--max-tokens", "8"]) == 0
    told = capsys.readouterr()
    assert told.err.count("forgotten") == 1 and len(told.out.splitlines()) >= 9
    assert main(["chat", str(run), "--compare", *messages, "--max-tokens", "8", "--json"]) == 0
    told = capsys.readouterr()
    assert told.err.count("forgotten") == 1 and len(told.out.splitlines()) == 9


def test_a_message_longer_than_the_context_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(run), "--message", "Name " * 200]) == 2
    assert "the model's context is 96" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--temperature", "-1"], ["--temperature", "nan"], ["--max-tokens", "0"], ["--seed", "-1"]])
def test_numbers_that_make_no_sense(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "any", "--message", "Hi", *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_input_that_is_no_text(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for errors in ("strict", "surrogateescape"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Name \xff\xfe?\n"), "utf-8", errors=errors))
        assert main(["chat", str(run)]) == 2
        assert "not UTF-8" in capsys.readouterr().err


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, said: list[str | BaseException]) -> None:
    """A person who types, presses Ctrl-C (an exception) and then Ctrl-D."""
    keys = iter(said)

    def typed(prompt: str) -> str:
        key = next(keys, EOFError())
        if isinstance(key, BaseException):
            raise key
        return key

    monkeypatch.setattr("sys.stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", typed)


def test_a_person_goes_on_after_a_message_that_is_too_long(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_terminal(monkeypatch, ["Name " * 200, KeyboardInterrupt(), "Name 1?", "/exit", "Name 2?"])
    assert main(["chat", str(run), "--max-tokens", "8"]) == 0
    told = capsys.readouterr()
    assert "the message is too long" in told.err and told.out.count("model ") == 1
    at_a_terminal(monkeypatch, ["Name 1?"])
    assert main(["chat", str(run), "--max-tokens", "8"]) == 0
    assert capsys.readouterr().out.strip() == told.out.strip()  # what was refused has left no trace


def test_ctrl_c_ends_an_answer_of_a_person_and_the_program_of_a_script(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finery.infer.hf import Pieces

    show, count = Pieces.show, 0

    def pressed(self: Pieces, last: bool = False) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        show(self, last)

    monkeypatch.setattr(Pieces, "show", pressed)
    at_a_terminal(monkeypatch, ["Name 1?", "Name 2?"])
    assert main(["chat", str(run), "--max-tokens", "8"]) == 0
    told = capsys.readouterr().out
    assert "[stopped]" in told and told.count("model ") == 2
    count = 0
    assert main(["chat", str(run), "--max-tokens", "8", "--message", "Name 1?", "--message", "Name 2?"]) == 130


def test_control_characters_are_shown_not_obeyed() -> None:
    from finery.infer.chat import visible

    assert visible("\x1b]0;title\x07 a\tb\r\n冰🙂\x9b2J") == "\\x1b]0;title\\x07 a\tb\\x0d\n冰🙂\\x9b2J"


def test_another_base_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    other = make_model(tmp_path / "other", seed=1, max_position_embeddings=96)
    values = yaml.safe_load((copy / "run.yaml").read_text())
    (copy / "run.yaml").write_text(yaml.safe_dump({**values, "model": str(other)}))
    full = values["adapter"]["type"] == "full"
    assert main(["chat", str(copy), "--message", "Hi", "--max-tokens", "2"]) == (0 if full else 2)  # full needs no base
    capsys.readouterr()
    assert main(["chat", str(copy), "--compare", "--message", "Hi", "--max-tokens", "2"]) == 2
    assert "fingerprint differs" in capsys.readouterr().err


def test_a_model_without_a_template_is_asked_in_chatml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(tmp_path / "model", template=None)
    assert main(["chat", str(model), "--message", "Hi", "--max-tokens", "2"]) == 0
    assert "built-in chatml" in capsys.readouterr().err


def test_a_model_by_itself_has_no_base(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(run.parent / "model"), "--compare", "--message", "Hi"]) == 2
    assert "--compare needs a run" in capsys.readouterr().err


def test_an_unfinished_run_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text((run / "run.yaml").read_text())
    (tmp_path / "run" / "lock").touch()
    assert main(["chat", str(tmp_path / "run"), "--message", "Hi"]) == 2
    assert "no final weights yet" in capsys.readouterr().err
