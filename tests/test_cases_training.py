"""The training cases of the shared test data: small inputs after public bug reports, each with its right outcome."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from finery.cli import main
from finery.run import open_run
from tests.shared import case_folder
from tests.tiny import CHATML, make_model


def prepare(name: str, tmp_path: Path) -> Path:
    """A copy of the case's folder, with a tiny model beside it."""
    folder = tmp_path / "case"
    shutil.copytree(case_folder(name), folder)
    folder.chmod(0o755)
    make_model(tmp_path / "model")
    return folder


def run_yaml(folder: Path, **settings: object) -> Path:
    path = folder / "made.yaml"
    path.write_text(yaml.safe_dump({"model": str(folder.parent / "model"), "output": str(folder.parent / "run"), **settings}))
    return path


@pytest.mark.parametrize(("file", "rows"), [("one.jsonl", 1), ("three.jsonl", 3)])
def test_fewer_rows_than_the_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, rows: int) -> None:
    folder = prepare("training-fewer-rows-than-batch", tmp_path)
    assert main(["train", str(run_yaml(folder, data=str(folder / file), batch_size=32, epochs=2, learning_rate=1e-2))]) == 0
    run = open_run(tmp_path / "run")
    steps = [event for event in run.events() if event["event"] == "step"]
    assert [step["rows"] for step in steps] == [rows, rows]
    assert "fewer than batch_size 32" in capsys.readouterr().err
    weights = load_file(run.final_folder / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)


def test_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = prepare("training-fewer-rows-than-batch", tmp_path)
    assert main(["train", str(run_yaml(folder, data=str(folder / "empty.jsonl"), batch_size=32))]) == 2
    told = capsys.readouterr().err
    assert "empty.jsonl" in told and "0" in told and "Traceback" not in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("passes", [4096, 60, 8])
def test_split_invariance(tmp_path: Path, passes: int) -> None:
    """One step: the loss is the sum over the trained tokens divided by their number, whatever the passes are."""
    folder = prepare("training-split-invariance", tmp_path)
    losses, weights = [], []
    for number, tokens in enumerate((4096, passes)):
        settings = {"batch_size": 8, "epochs": 1, "seed": 7, "adapter": "full", "tokens_per_pass": tokens}
        output = str(tmp_path / f"run{number}")
        assert main(["train", str(run_yaml(folder, data=str(folder / "rows.jsonl"), **settings)), f"output={output}"]) == 0
        losses.append(next(event["loss"] for event in open_run(output).events() if event["event"] == "step"))
        weights.append(load_file(Path(output) / "final" / "model.safetensors"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, tensor in weights[0].items():
        assert torch.allclose(weights[1][name], tensor, rtol=1e-5, atol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["forest", "padded"])
@pytest.mark.parametrize("pad", ["is the stop token", "is missing", "is its own"])
def test_the_stop_token_is_learned(tmp_path: Path, pad: str, layout: str) -> None:
    """A tiny model that learned the rows by heart ends each answer by itself."""
    from finery.infer.hf import generate
    from finery.model.load import load_tokenizer

    folder = prepare("training-stop-token-learned", tmp_path)
    set_pad(tmp_path / "model", pad)
    settings = {"batch_size": 4, "epochs": 60, "learning_rate": 1e-2, "adapter": "full", "layout": layout}
    assert main(["train", str(run_yaml(folder, data=str(folder / "rows.jsonl"), **settings))]) == 0
    final = str(tmp_path / "run" / "final")
    tokenizer, stop_ids = load_tokenizer(final)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32)
    for question, answer in questions_of(folder / "rows.jsonl"):
        ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]
        said = generate(model, tokenizer, ids, stop_ids, max_new_tokens=64)
        assert (said.text.strip(), said.finish) == (answer, "stop")


def set_pad(model: Path, pad: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = {"is the stop token": tokenizer.eos_token, "is missing": None, "is its own": "<|endoftext|>"}[pad]
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(model)


def questions_of(path: Path) -> list[tuple[list[dict[str, str]], str]]:
    """Each assistant turn with what was said before it."""
    import json

    found = []
    for line in path.read_text().splitlines():
        messages = json.loads(line)["messages"]
        found += [(messages[:i], m["content"]) for i, m in enumerate(messages) if m["role"] == "assistant"]
    return found
