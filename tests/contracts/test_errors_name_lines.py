"""Contract 9: every wrong key and every bad row is told with file:line and the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finery.cli import main
from finery.config.load import load_config
from finery.config.names import OTHER_NAMES
from finery.config.schema import Config, Source, variants
from finery.errors import ConfigError


def places() -> Iterator[tuple[str, str, list[str]]]:
    """(where a setting stands, as YAML with a slot for it; its name; all names possible there)."""
    for name in Config.model_fields:
        yield "{}", name, list(Config.model_fields)
    for key, kinds in variants().items():
        for kind, section in kinds.items():
            for name in section.model_fields.keys() - {"type"}:
                yield f"{key}:\n  type: {kind}\n  {{}}", name, list(section.model_fields)
    for name in Source.model_fields.keys() - {"path"}:
        yield "data:\n  - path: rows.jsonl\n    {}", name, list(Source.model_fields)


@st.composite
def misspelt(draw: st.DrawFn, name: str) -> str:
    """A slip of the fingers: a letter lost, doubled, or swapped with its neighbour."""
    at = draw(st.integers(0, len(name) - 2))
    slips = (
        name[:at] + name[at + 1 :],
        name[:at] + name[at] + name[at:],
        name[:at] + name[at + 1] + name[at] + name[at + 2 :],
    )
    return draw(st.sampled_from(slips))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("misspelt")
    (made / "rows.jsonl").write_text("{}\n")
    return made


@settings(max_examples=300, deadline=None)
@given(data=st.data(), place=st.sampled_from(sorted(places())), above=st.integers(0, 5))
def test_a_misspelt_key_is_told_with_its_line_and_its_right_name(
    folder: Path, data: st.DataObject, place: tuple[str, str, list[str]], above: int
) -> None:
    slot, name, names = place
    wrong = data.draw(misspelt(name))
    assume(wrong not in names and wrong not in OTHER_NAMES)
    twin = {"beta1": "beta2", "beta2": "beta1"}.get(name, name)  # a lost digit fits both
    text = "\n" * above + slot.format(f"{wrong}: 1") + "\nmodel: org/name\n"
    text += "" if slot.startswith("data:") else "data: rows.jsonl\n"
    path = folder / "run.yaml"
    path.write_text(text)
    line = next(number for number, words in enumerate(text.splitlines(), 1) if words.strip().startswith(f"{wrong}:"))
    with pytest.raises(ConfigError) as error:
        load_config(path)
    told = [words for words in str(error.value).splitlines() if words.startswith(f"{path}:{line}: ") and f"{wrong}: " in words]
    assert len(told) == 1, str(error.value)
    assert f"`{name}`" in told[0] or f"`{twin}`" in told[0], told


@pytest.mark.parametrize("bad", ["{broken", '{"instruction": "x"}', '{"instruction": "x", "output": ""}', '"a word"', "42"])
@pytest.mark.parametrize("place", [1, 4, 7])
def test_a_bad_row_is_told_with_its_line_and_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str, place: int
) -> None:
    rows = [json.dumps({"instruction": f"Question {i}?", "output": f"Answer {i}."}) for i in range(6)]
    rows.insert(place - 1, bad)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows) + "\n")
    assert main(["check", str(path)]) == 2
    told = capsys.readouterr().err
    assert f"rows.jsonl:{place}" in told and "way out" in told and "Traceback" not in told
    assert not any(f"rows.jsonl:{other}\n" in told for other in range(1, 8) if other != place)
    assert main(["check", str(path), "on_bad_row=drop", "--json"]) == 0
    ledger = json.loads(capsys.readouterr().out)
    assert ledger["rows_in"] == 7 and sum(ledger["dropped"].values()) == 1
    assert f"rows.jsonl:{place}" in json.dumps(ledger["problems"])
