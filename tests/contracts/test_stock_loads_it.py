"""Contract 7: what a run leaves loads in stock transformers and peft, with no import of finery, and computes the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finery.cli import main
from tests.tiny import make_model, write_rows

STOCK = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
base, final, kind = sys.argv[1:]
if kind == "lora":
    from peft import PeftModel
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), final)
else:
    model = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(final)
asked = [{"role": "user", "content": "Name 1?"}]
ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
with torch.no_grad():
    logits = model.eval()(torch.tensor([ids])).logits[0, -1]
assert "finery" not in sys.modules
print(json.dumps({"ids": ids, "logits": logits.tolist()}))
"""


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("template", [None, "chatml"])
def test_final_weights_in_stock_libraries(tmp_path: Path, kind: str, template: str | None) -> None:
    import torch

    from finery.infer.load import load_speaker
    from finery.types import Message

    make_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    values = {"model": "model", "data": "rows.jsonl", "adapter": kind, "epochs": 2, "learning_rate": 1e-2, "template": template}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**values, "output": str(tmp_path / "run")}))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    words = [sys.executable, "-c", STOCK, str(tmp_path / "model"), str(tmp_path / "run" / "final"), kind]
    stock = json.loads(subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()[-1])
    speaker = load_speaker(str(tmp_path / "run"))
    ids = speaker.renderer.prompt([Message("user", "Name 1?")])
    assert stock["ids"] == ids
    with torch.no_grad():
        logits = speaker.model(torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(logits, torch.tensor(stock["logits"]), atol=1e-5)
