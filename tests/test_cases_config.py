"""The config cases of the shared test data, small inputs after public bug reports, each with its right outcome in cases.yaml.

Those written for LLaMA-Factory are not translated yet: they must be refused with each of their keys beside ours.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from finery.cli import main
from finery.config.load import load_config
from finery.errors import ConfigError
from tests.shared import SHARED_DATA, case_folder

OURS = ("config-misspelt-keys", "config-number-spellings", "config-tab-indent", "config-full-width-characters")


def cases() -> dict[str, dict[str, Any]]:
    file = SHARED_DATA / "cases" / "cases.yaml"
    every = yaml.safe_load(file.read_text(encoding="utf-8"))["cases"] if file.exists() else []
    return {case["id"]: case for case in every if case["kind"] == "config"}


def files_of(case: str, tmp_path: Path) -> Path:
    """A copy of the case's folder with its placeholders filled in; line numbers stay."""
    folder = tmp_path / "case"
    shutil.copytree(case_folder(case), folder)
    (tmp_path / "model").mkdir()
    for path in folder.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        text = text.replace("TINY_MODEL", str(tmp_path / "model")).replace("OUT_DIR", str(tmp_path / "out"))
        path.chmod(0o644)
        path.write_text(text, encoding="utf-8")
    return folder


def refusal(path: Path, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value)


def same_in_the_terminal(path: Path, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`finery train` says the same, with exit code 2, and starts nothing."""
    assert main(["train", str(path)]) == 2
    shown = capsys.readouterr()
    assert told in shown.err and "Traceback" not in shown.err
    assert not (path.parent.parent / "out").exists()


def test_the_cases_are_those_that_this_file_knows() -> None:
    if not cases():
        case_folder("cases.yaml")  # skips with the reason
    assert set(OURS) <= set(cases())


def test_misspelt_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files_of("config-misspelt-keys", tmp_path) / "run.yaml"
    told = refusal(path)
    assert all(name in told for name in cases()["config-misspelt-keys"]["right"]["names"])
    same_in_the_terminal(path, told, capsys)


@pytest.mark.parametrize("way", ["in the file", "on the command line"])
def test_number_spellings(tmp_path: Path, way: str) -> None:
    path = files_of("config-number-spellings", tmp_path) / "run.yaml"
    text = path.read_text()
    assert text.splitlines()[5] == "learning_rate: 1e-4"
    for value, outcome in cases()["config-number-spellings"]["right"]["values"].items():
        value = {1e-4: "1e-4", -1e-4: "-1e-4"}.get(value, str(value))
        overrides: tuple[str, ...] = ()
        if way == "in the file":
            path.write_text(text.replace("learning_rate: 1e-4", f"learning_rate: {value}"))
        else:
            overrides = (f"learning_rate={value}",)
        try:
            rate = load_config(path, overrides).learning_rate
        except ConfigError as error:
            told = str(error)
            place = "run.yaml:6" if way == "in the file" else "on the command line"
            assert "refused" in outcome and place in told and "learning_rate" in told, (value, told)
            assert all(word in told for word in re.findall(r"refused naming run.yaml:6 and (\S+)", outcome))
        else:
            assert outcome.startswith("accepted"), (value, rate)
            wanted = re.match(r"accepted, ([0-9.]+)", outcome)
            assert rate == (float(wanted[1].rstrip(".")) if wanted else None), value


def test_tab_indent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files_of("config-tab-indent", tmp_path)
    told = refusal(folder / "run.yaml")
    assert all(name in told for name in cases()["config-tab-indent"]["right"]["names"])
    same_in_the_terminal(folder / "run.yaml", told, capsys)
    assert load_config(folder / "tab_before_comment.yaml").batch_size == 8


@pytest.mark.parametrize("file", ["colon.yaml", "digits.yaml", "space.yaml", "quotes.yaml"])
def test_full_width_characters(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files_of("config-full-width-characters", tmp_path)
    told = refusal(folder / file)
    assert all(name in told for name in cases()["config-full-width-characters"]["right"]["each"][file]["names"])
    assert "full-width" in told and told.count(f"{file}:") == 1
    same_in_the_terminal(folder / file, told, capsys)


def test_files_for_llamafactory_are_refused_with_every_key(tmp_path: Path) -> None:
    case_folder("cases.yaml")
    files = [path for case in cases() if case not in OURS for path in sorted(case_folder(case).glob("*.yaml"))]
    files += sorted((SHARED_DATA / "llamafactory_yaml").rglob("*.yaml"))
    assert len(files) > 20
    for path in files:
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not {"stage", "do_train"} & set(keys):
            continue
        told = refusal(path)
        assert "does not translate it yet" in told
        assert all(re.search(rf"{re.escape(path.name)}:\d+: {re.escape(key)} -> \S", told) for key in keys)
