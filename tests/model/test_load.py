"""Models from folders and GGUF files, stops, limits, fingerprints, and an error with a way out for everything else."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from finery.config.schema import Config
from finery.errors import ConfigError, ModelError
from finery.model.adapter import add_adapter, load_adapter, save_adapter, targets
from finery.model.load import fingerprint, load_model, load_tokenizer, model_limit
from tests.tiny import make_model

IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])


def config(model, **settings) -> Config:
    return Config.model_validate({"model": str(model), "data": "none", "device": "cpu", **settings})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tiny-llama")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder(folder, capfd):
    model, about = load_model(config(folder))
    tokenizer, stops = load_tokenizer(str(folder))
    assert model.dtype == torch.float32 and about["mixed_precision"] == "no"
    assert any("float32" in note and "cpu" in note for note in about["notes"])
    assert stops == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert model_limit(str(folder)) == 512
    assert capfd.readouterr() == ("", "")  # no progress bars, no reports


def test_stops_are_those_of_every_file(folder):
    edit(folder / "generation_config.json", eos_token_id=[7, 9])
    edit(folder / "config.json", eos_token_id=9)
    tokenizer, stops = load_tokenizer(str(folder))
    assert stops == [7, 9, tokenizer.eos_token_id]


def test_full_training_keeps_float32_weights(folder):
    model, about = load_model(config(folder, dtype="bfloat16", adapter={"type": "full"}))
    assert model.dtype == torch.float32 and about["mixed_precision"] == "bf16"
    model, about = load_model(config(folder, dtype="bfloat16"))
    assert model.dtype == torch.bfloat16
    adapted = add_adapter(model, config(folder, dtype="bfloat16"))
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    assert any("slower" in note for note in about["notes"])


# --- refused ---------------------------------------------------------------------------------------------------------------


def refused(model, **settings) -> ModelError:
    with pytest.raises(ModelError) as error:
        load_model(config(model, **settings))
    assert error.value.way_out and error.value.where
    return error.value


def test_a_name_that_is_almost_right(folder):
    assert "tiny-llama" in refused(str(folder)[:-1] + "o/").way_out
    with pytest.raises(ModelError, match="no such model folder"):
        load_tokenizer(str(folder.parent / "tiny-lama"))


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "cat.png").write_bytes(b"png")
    error = refused(tmp_path)
    assert "cat.png" in error.what and "config.json" in error.what


def test_the_folder_above_the_model(folder):
    assert str(folder) in refused(folder.parent).way_out


def test_a_file_that_is_no_model(folder):
    assert "not a model" in refused(folder / "tokenizer.json").what


def test_an_encoder(tmp_path):
    from transformers import BertConfig, BertModel

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
    BertModel(BertConfig(**small)).save_pretrained(tmp_path)
    error = refused(tmp_path)
    assert "not a causal language model" in error.what and "BertModel" in error.what


def test_own_code_is_never_run(folder):
    edit(folder / "config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    (folder / "modeling_mine.py").write_text("raise SystemExit('was run')")
    assert "own code" in refused(folder).what


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused(folder).what


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "can run code" in refused(folder).way_out


def test_damaged_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])
    assert "damaged" in refused(folder).what
    path.write_bytes(b"")
    assert "damaged" in refused(folder).what


def test_missing_weights_are_never_random_numbers(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, {"format": "pt"})
    assert "up_proj" in refused(folder).what


def test_other_shapes(folder):
    edit(folder / "config.json", intermediate_size=48)
    assert "another shape" in refused(folder).what


def test_a_broken_config(folder):
    (folder / "config.json").write_text("{")
    assert "JSON" in refused(folder).what


def test_no_network(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for ask in (lambda name: load_model(config(name)), load_tokenizer, model_limit):
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set") as error:
            ask("nobody/has-this-model")
        assert "folder" in error.value.way_out


def test_a_device_that_is_not_there(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no cuda device" in refused(folder, device="cuda").what


# --- saved and loaded ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21, November 2026
def test_stock_peft_loads_the_adapter(folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = add_adapter(load_model(config(folder))[0], config(folder))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    save_adapter(model, tmp_path / "saved")
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "saved")
    ours = load_adapter(load_model(config(folder))[0], tmp_path / "saved")
    plain = load_model(config(folder))[0](IDS).logits
    for loaded in (stock, ours):
        torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)
        assert (loaded(IDS).logits - plain).abs().max() > 0.01


@pytest.mark.parametrize("tied", [False, True])
def test_stock_transformers_loads_the_whole_model(tmp_path, tied):
    from transformers import AutoModelForCausalLM

    made = make_model(tmp_path / "tiny", tie_word_embeddings=tied)
    model = add_adapter(load_model(config(made))[0], config(made, adapter={"type": "full"}))
    assert all(p.requires_grad for p in model.parameters())
    save_adapter(model, tmp_path / "saved")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(stock(IDS).logits, model(IDS).logits)


def test_the_seed_decides_the_fresh_adapter(folder):
    def fresh(seed: int) -> torch.Tensor:
        torch.manual_seed(seed + 99)
        model = add_adapter(load_model(config(folder))[0], config(folder, seed=seed))
        return torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n])

    assert torch.equal(fresh(1), fresh(1))
    assert not torch.equal(fresh(1), fresh(2))


def test_every_linear_layer_but_the_head(folder):
    model = load_model(config(folder))[0]
    assert targets(model, "all") == sorted("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())
    adapted = add_adapter(model, config(folder, adapter={"type": "lora", "rank": 4, "target": ["q_proj", "v_proj"]}))
    assert adapted.peft_config["default"].lora_alpha == 8
    assert sum("lora_A" in name for name, _ in adapted.named_parameters()) == 2 * 2


def test_layers_that_the_model_has_not(folder):
    with pytest.raises(ConfigError, match="q_prj") as error:
        targets(load_model(config(folder))[0], ["q_prj"])
    assert "q_proj" in error.value.way_out and "adapter.target" in error.value.where


def test_fingerprints_tell_equal_shapes_apart(folder, tmp_path):
    other = make_model(tmp_path / "other", seed=1)
    assert fingerprint(str(folder)) == fingerprint(str(folder))
    assert fingerprint(str(folder)) != fingerprint(str(other))


def test_no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="tokenizer") as error:
        load_tokenizer(str(folder))
    assert "tokenizer.json" in error.value.way_out


def test_a_tokenizer_that_can_never_end(folder):
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        edit(folder / name, eos_token_id=None, eos_token=None)
    with pytest.raises(ModelError, match="no end-of-text token"):
        load_tokenizer(str(folder))
