"""Settings: what is read, what is refused, and that a refusal says where, what, and the way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finery.config.load import config_from_dict, dump_config, json_schema, load_config
from finery.config.schema import Config, Full, Lora, Source
from finery.errors import ConfigError

Write = Callable[[str], Path]
BASE = "model: model\ndata: rows.jsonl\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes run.yaml beside rows.jsonl and model/."""
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "model").mkdir()

    def made(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return made


def refusal(path: Path, overrides: Sequence[str] = ()) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value)


# --- what is read ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("2E-5", 2e-5),
        (".0002", 2e-4),
        ("1.0e-4", 1e-4),
        ("+1e-4", 1e-4),
        ("1", 1.0),
        ("010", 10.0),
        ("1.", 1.0),
    ],
)
def test_numbers_of_yaml_1_2(write: Write, written: str, value: float) -> None:
    assert load_config(write(f"{BASE}learning_rate: {written}\n")).learning_rate == value
    assert load_config(write(BASE), [f"learning_rate={written}"]).learning_rate == value


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "Yes", "y", "1e", "12:30", "2026-01-01", "0x10", "1_000"])
def test_words_stay_words(write: Write, word: str) -> None:
    assert load_config(write(f"{BASE}questions: [{word}]\n")).questions == [word]


def test_a_short_string_stands_for_a_variant(write: Write) -> None:
    assert load_config(write(f"{BASE}adapter: full\n")).adapter == Full()
    assert load_config(write(f"{BASE}adapter: {{rank: 3}}\n")).adapter == Lora(rank=3)
    assert load_config(write(f"{BASE}adapter: lora\n"), ["adapter.rank=8"]).adapter == Lora(rank=8)
    assert load_config(write(BASE), ["adapter.rank=8", "adapter.dropout=0.1"]).adapter == Lora(rank=8, dropout=0.1)
    assert load_config(write(f"{BASE}adapter: {{type: lora, rank: 4}}\n"), ["adapter=full"]).adapter == Full()


def test_null_is_not_given(write: Write) -> None:
    nulls = "".join(f"{name}: null\n" for name in Config.model_fields if name not in ("model", "data", "clip"))
    assert load_config(write(BASE + nulls)) == load_config(write(BASE))
    assert load_config(write(f"{BASE}adapter: {{type: lora, rank: null}}\n")).adapter == Lora()
    assert load_config(write(f"{BASE}clip: null\n")).clip is None
    assert load_config(write(f"{BASE}epochs: 7\n"), ["epochs=null"]).epochs == Config.model_fields["epochs"].default
    assert "model: this setting is needed" in refusal(write("model: null\ndata: rows.jsonl\n"))


def test_paths_start_at_the_file_or_at_the_working_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "other.jsonl").write_text("{}\n")
    (tmp_path / "t.jinja").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    config = load_config(write(f"{BASE}validation: rows.jsonl\ntemplate: t.jinja\n"))
    assert config.model == str(tmp_path / "model")
    assert config.data == [Source(path=str(tmp_path / "rows.jsonl"))]
    assert (config.validation, config.template) == (str(tmp_path / "rows.jsonl"), str(tmp_path / "t.jinja"))
    assert config.output == "runs/run"
    assert load_config(write(BASE), ["data=other.jsonl"]).data[0].path == str(tmp_path / "here" / "other.jsonl")
    assert load_config(write("model: org/name\ndata: rows.jsonl\ntemplate: chatml\n")).model == "org/name"
    assert config_from_dict({"model": "org/name", "data": "other.jsonl"}).data[0].path == str(tmp_path / "here" / "other.jsonl")


def test_names_on_the_command_line_are_taken_as_they_stand(write: Write) -> None:
    config = load_config(write(BASE), ["output=runs/a: b #1", "model=50", "output=12"])
    assert (config.model, config.output) == ("50", "12")


def test_sources_in_all_their_forms(write: Write) -> None:
    one = load_config(write(BASE)).data
    assert load_config(write("model: model\ndata: {path: rows.jsonl}\n")).data == one
    many = load_config(write("model: model\ndata:\n  - rows.jsonl\n  - {path: rows.jsonl, weight: 2}\n")).data
    assert [(source.path, source.weight) for source in many] == [(one[0].path, 1.0), (one[0].path, 2.0)]


def test_a_tab_before_a_comment_or_a_value_is_legal(write: Write) -> None:
    assert load_config(write(f"{BASE}batch_size:\t8\t# eight\nepochs: 1\t\n")).batch_size == 8


def test_texts_may_hold_what_looks_like_a_slip(write: Write) -> None:
    text = f"{BASE}questions:\n  - 问题：你好\n  - Note：x\n  - |\n    code:\n    \tindented\n"
    assert load_config(write(text)).questions == ["问题：你好", "Note：x", "code:\n\tindented\n"]


@pytest.mark.parametrize("encode", [lambda t: b"\xef\xbb\xbf" + t.encode(), lambda t: t.replace("\n", "\r\n").encode()])
def test_byte_order_marks_and_windows_line_ends(write: Write, encode: Callable[[str], bytes]) -> None:
    path = write("")
    path.write_bytes(encode(BASE + "epochs: 2\n"))
    assert load_config(path).epochs == 2


# --- there and back ----------------------------------------------------------------------------------------------------------

words = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    [
        "1e-4",
        "yes",
        "null",
        "~",
        "true",
        "0x1",
        "1:2",
        "- a",
        "a: b",
        "=",
        "<<",
        "2026-01-01",
        "“x”",
        "\t",
        "*a",
        "&a",
        "!t",
        "１",
    ]
)
positive = st.floats(1e-12, 1e6)


@settings(max_examples=150, deadline=None)
@given(
    questions=st.lists(words, max_size=3),
    columns=st.dictionaries(st.sampled_from(["prompt", "answer"]), words, max_size=2),
    learning_rate=positive,
    clip=st.none() | positive,
    weight_decay=positive,
    validation=st.none() | st.integers(1, 9) | st.floats(0.01, 0.99),
    adapter=st.sampled_from([Full(), Lora(), Lora(rank=3, alpha=7.0, target=["1e5", "q_proj"])]),
)
def test_what_is_dumped_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, str], **values: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    data = [Source(path="/nowhere/数据 1e5", columns=columns)]
    config = Config(model="org/name", data=data, output="runs/x", **values)
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path, files_must_exist=False) == config


# --- what is refused ---------------------------------------------------------------------------------------------------------


def test_all_mistakes_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = "model: model\ndata: rwos.jsonl\nepoch: 1\nbatch_size: 0\nseed: 1\nseed: 2\nadapter:\n  type: lora\n  rnak: 8\n"
    told = refusal(write(text), ["lr=3"]).splitlines()
    assert told[0] == "6 mistakes in the settings:"
    for line, (place, *words_) in zip(
        told[1:],
        [
            ("on the command line: lr", "learning_rate"),
            ("run.yaml:2: data", "rwos.jsonl", "rows.jsonl"),
            ("run.yaml:3: epoch", "epochs"),
            ("run.yaml:4: batch_size", "at least 1"),
            ("run.yaml:6: `seed`", "5 and 6"),
            ("run.yaml:9: adapter.rnak", "rank"),
        ],
        strict=False,
    ):
        assert place in line and all(word in line for word in words_)


@pytest.mark.parametrize(
    ("line", "words_"),
    [
        ("num_train_epochs: 3", ["`epochs`"]),
        ("per_device_train_batch_size: 3", ["`batch_size`"]),
        ("lora_rank: 3", ["`adapter.rank`"]),
        ("rank: 3", ["`adapter.rank`"]),
        ("adapter: {lora_alpha: 3}", ["`alpha`"]),
        ("adapter: {r: 3}", ["`rank`"]),
        ("adapter: {epochs: 3}", ["`epochs`", "at the top"]),
        ("adapter: lroa", ["lora, full", "`lora`?"]),
        ("adapter: 3", ["`adapter: lora`"]),
        ("adapter: {rank: 0}", ["at least 1 and at most 1024"]),
        ("adapter: {dropout: 1}", ["at least 0 and below 1"]),
        ("adapter: {target: []}", ["[q_proj, v_proj]"]),
        ("adapter: {type: full, rank: 3}", ["rank", "type"]),
        ("objective: dpo", ["sft, pt"]),
        ("objective: {last_turn_only: yes}", ["`yes`", "true nor false"]),
        ("optimizer: adam", ["adamw"]),
        ("schedule: cosin", ["linear, cosine, constant", "`cosine`?"]),
        ("learning_rate: 0", ["above 0"]),
        ("learning_rate: .nan", ["finite"]),
        ("learning_rate: '1e-4'", ["not a number", "quotes"]),
        ("learning_rate: true", ["`true` is not a number"]),
        ("batch_size: 8.5", ["whole number"]),
        ("batch_size: １６", ["full-width", "`16`"]),
        ("ｅｐｏｃｈｓ: 3", ["`epochs`", "full-width"]),
        ("epoch:", ["`epochs`"]),
        ("questions: hi", ["[hi]"]),
        ("questions: [1]", ['"1"']),
        ("validation: 1.5", ["below 1", "whole number"]),
        ("validation: true", ["share", "file"]),
        ("warmup: 1.5", ["steps"]),
        ("evaluate_every: 2", ["validation", "questions"]),
        ("template: gone.jinja", ["no file or folder", "rows.jsonl"]),
        ("null: 3", ["no such setting"]),
    ],
)
def test_one_wrong_line_is_told_with_its_place_and_the_way_out(write: Write, line: str, words_: list[str]) -> None:
    told = refusal(write(f"{BASE}{line}\n"))
    assert "run.yaml:3: " in told and "mistakes" not in told
    for word in words_:
        assert word in told, told


@pytest.mark.parametrize(
    "line", ["template: chatml", "reasoning: drop", "questions: [hi]", "on_too_long: drop"], ids=lambda line: line.split(":")[0]
)
def test_what_raw_text_cannot_have(write: Write, line: str) -> None:
    assert "run.yaml:4: " in (told := refusal(write(f"{BASE}objective: pt\n{line}\n"))) and "objective: pt" in told
    load_config(write(f"{BASE}{line}\n"))


@pytest.mark.parametrize(
    ("lines", "place", "words_"),
    [
        ("adapter:\n\ttype: lora\n", 4, ["tab", "spaces"]),
        ("learning_rate：1e-4\nepochs: 1\n", 3, ["U+FF1A"]),
        ("adapter:\n  rank：4\n", 4, ["U+FF1A"]),
        ("adapter:\n\u3000\u3000rank: 4\n", 4, ["U+3000", "full-width space"]),
        ("batch_size:\u30008\nepochs: 1\n", 3, ["U+3000"]),
        ("batch_size:\u00a08\nepochs: 1\n", 3, ["U+00A0"]),
        ("epochs:3\nseed: 1\n", 3, ["no space after"]),
        ("adapter:\n  rank:4\n", 4, ["no space after"]),
        ("questions:\n－ a\n", 4, ["full-width minus"]),
        ("questions: [a, b\n", 4, ["not YAML"]),
        ("epochs: 1\nepochs: 2\n", 4, ["twice", "3 and 4"]),
        ("adapter:\n  rank: 1\n  rank: 2\n", 5, ["twice", "4 and 5"]),
        ("questions: !!python/object/apply:os.system [ls]\n", 3, ["tag"]),
        ("questions: &a [*a]\n", 3, ["repeats"]),
        ("? [a]\n: 3\n", 3, ["must be a word"]),
        ("output: a\x00b\n", 3, ["U+0000"]),
        ("---\nepochs: 1\n", 3, ["another document"]),
    ],
)
def test_what_is_not_yaml_is_told_on_its_line(write: Write, lines: str, place: int, words_: list[str]) -> None:
    told = refusal(write(BASE + lines))
    assert f"run.yaml:{place}" in told, told
    for word in words_:
        assert word in told, told


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "hello\n", "[" * 3000, "model: [" * 3000])
def test_files_that_are_no_settings(write: Write, text: str) -> None:
    assert "run.yaml" in refusal(write(text))


def test_files_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    path = write(BASE)
    assert "run.yaml" in refusal(tmp_path / "rnu.yaml")
    assert "folder" in refusal(tmp_path)
    assert "is a file" in refusal(path / "run.yaml")
    path.write_bytes((BASE + "questions: [你好]\n").encode("gbk"))
    assert "UTF-8" in (told := refusal(path)) and "run.yaml:3" in told


@pytest.mark.parametrize(
    ("overrides", "words_"),
    [
        (["epochs"], ["KEY=VALUE"]),
        (["=3"], ["KEY=VALUE"]),
        (["epochs="], ["no value", "epochs=null"]),
        (["epoch=3"], ["`epochs`"]),
        (["adapter.rnak=3"], ["adapter.rnak", "`rank`"]),
        (["a.b=3"], ["a: there is no such setting"]),
        (["model.x=3"], ["`model` holds no `x`"]),
        (["learning_rate=1,e-4"], ["learning_rate", "not a number"]),
        (["questions=[a: b"], ["can't be read"]),
        (["adapter={rank: 1, rank: 2}"], ["twice"]),
        (["epochs=0", "batch_size=x"], ["epochs", "batch_size"]),
        (["data=gone.jsonl"], ["gone.jsonl"]),
    ],
)
def test_wrong_overrides_say_on_the_command_line(write: Write, overrides: list[str], words_: list[str]) -> None:
    told = refusal(write(BASE), overrides)
    assert "on the command line" in told
    for word in words_:
        assert word in told, told


def test_another_tools_file_is_shown_beside_our_names(write: Write) -> None:
    told = refusal(write("model_name_or_path: x\nstage: sft\nfinetuning_type: lora\ndataset: a\ncutoff_len: 9\nstrange: 1\n"))
    for line in ("1: model_name_or_path -> model", "2: stage -> objective", "5: cutoff_len -> context", "6: strange -> has no"):
        assert f"run.yaml:{line}" in told
    assert "LLaMA-Factory" in told and "does not translate it yet" in told


# --- the schema for editors --------------------------------------------------------------------------------------------------


def test_every_setting_is_documented_and_in_the_schema() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(Config.model_fields)
    sections = [schema, *(part for part in schema["$defs"].values() if "properties" in part)]
    for section in sections:
        for name, field in section["properties"].items():
            assert name == "type" or field.get("description"), name
    assert {"type": "string", "enum": ["lora", "full"]} in schema["properties"]["adapter"]["anyOf"]
    assert {"type": "string"} in schema["properties"]["data"]["anyOf"]
