"""The self-check takes the best layout that is right, and notices every way of being wrong that is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finery.errors import ModelError
from finery.model import attention, head, policy
from finery.model.policy import Policy
from finery.model.selfcheck import limits, recheck, settle_layout
from finery.types import Example, Row, Sequence
from tests.contracts.test_packed_is_alone import FAMILIES, SMALL, forest_rows, tiny

real_chains_of = attention.chains_of


def long_row(tokens: int) -> Row:
    ids = np.random.default_rng(tokens).integers(3, 97, tokens).astype(np.int32)
    return Row(Example(), [Sequence(ids, np.r_[0, np.ones(tokens - 1)].astype(np.float32))], tokens)


def sees_everything(subtree_end):
    """One chain over all: sequences see those before them."""
    return [attention.Chain(0, len(subtree_end), ())]


def sees_no_ancestors(subtree_end):
    return [chain._replace(above=()) for chain in real_chains_of(subtree_end)]


@pytest.mark.parametrize("broken", [sees_everything, sees_no_ancestors])
def test_a_wrong_forest_is_never_used(monkeypatch, broken):
    monkeypatch.setattr(attention, "chains_of", broken)
    report = settle_layout(Policy(tiny("llama")), forest_rows())
    assert report["layout"] == "dense"
    assert "differ" in report["refused"]["forest"]


def test_a_leak_is_found_by_replacing_the_others(monkeypatch):
    """A leak so weak that the comparison with the sequences alone would let it pass."""
    real = attention.forest_attention

    def leaking(module, query, key, value, attention_mask, **others):
        out, _ = real(module, query, key, value, attention_mask, **others)
        return out + 1e-5 * value.mean(), None

    monkeypatch.setattr(attention, "forest_attention", leaking)
    monkeypatch.setattr("finery.model.selfcheck.TOLERANCE", {torch.float32: (1.0, 1.0, 1e-7)})
    report = settle_layout(Policy(tiny("llama")), forest_rows())
    assert report["layout"] == "dense"
    assert "see one another" in report["refused"]["forest"]


def test_positions_count_from_the_start_of_each_sequence(monkeypatch):
    model = tiny("gpt2")
    original = model.base_model.forward

    def counted_through(*args, position_ids=None, **kwargs):
        return original(*args, position_ids=None, **kwargs)

    monkeypatch.setattr(model.base_model, "forward", counted_through)
    report = settle_layout(Policy(model), forest_rows()[:1])
    assert set(report["refused"]) == {"forest", "dense"}
    assert report["layout"] == "padded"


@pytest.mark.parametrize(("keyword", "value"), [("softcap", 3.0), ("s_aux", torch.zeros(4)), ("is_causal", False)])
def test_a_keyword_with_an_effect_moves_the_model_to_the_next_layout(monkeypatch, keyword, value):
    from transformers.models.llama import modeling_llama

    model, original = tiny("llama"), modeling_llama.LlamaAttention.forward

    def speaking(self, *args, **kwargs):
        if self.config._attn_implementation == attention.NAME:
            kwargs[keyword] = value
        return original(self, *args, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", speaking)
    report = settle_layout(Policy(model), forest_rows())
    assert report["layout"] == "dense"
    assert "UnsupportedAttention" in report["refused"]["forest"]


def test_a_wanted_layout_that_is_wrong_is_refused():
    with pytest.raises(ModelError, match="softcap") as error:
        settle_layout(Policy(tiny("gemma2")), forest_rows(), "forest")
    assert "layout=auto" in error.value.way_out


def test_a_head_with_unknown_steps_goes_through_the_models_own_forward(monkeypatch):
    """Soft-capped logits that our head is not told of."""
    monkeypatch.setattr(policy, "shape_of", lambda config: head.Shape())
    own = Policy(tiny("gemma2"))
    rows = forest_rows()
    assert settle_layout(own, rows)["head"] == "stock"
    for layout in ("dense", "padded"):
        assert settle_layout(own, rows, layout)["head"] == "stock"


def test_it_says_which_lengths_it_has_not_met_and_checks_again_there():
    own = Policy(tiny("phi3"))
    assert limits(own) == [16, 4096]  # the window, the rope's original length
    report = settle_layout(own, [long_row(12)])
    assert report["recheck_lengths"] == [16, 4096]
    assert recheck(own, [long_row(15)], report["recheck_lengths"]) is None
    again = recheck(own, [long_row(40)], report["recheck_lengths"])
    assert again is not None and again["recheck_lengths"] == [4096]


def test_a_window_that_is_off_by_one_is_found(monkeypatch):
    real = attention._chain_mask
    monkeypatch.setattr(attention, "_chain_mask", lambda t, s, window, device: real(t, s, window and window + 1, device))
    own = Policy(tiny("phi3"))
    assert settle_layout(own, [long_row(12)])["layout"] == "forest"  # nothing crosses the window
    assert settle_layout(own, [long_row(40)])["layout"] == "dense"


def test_training_mode_comes_back():
    own = Policy(tiny("llama"))
    own.train()
    settle_layout(own, forest_rows())
    assert own.training and own.model.training


def test_dropout_is_honoured_in_the_forest():
    """A model that trains with dropout in its attention gets it in our attention too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**SMALL, **FAMILIES["llama"], "attention_dropout": 0.5}
    own = Policy(AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **settings)))
    from finery.data.batch import to_batch
    from finery.data.pack import pack

    batch = to_batch(pack(forest_rows()))
    own.train()
    torch.manual_seed(1)
    first = own(batch).logp
    assert not torch.equal(first, own(batch).logp)
    torch.manual_seed(1)
    assert torch.equal(first, own(batch).logp)
    own.eval()
    assert torch.equal(own(batch).logp, own(batch).logp)


def test_lengths_on_both_sides_of_a_rope_boundary_never_share_a_pass():
    """longrope turns every position of a pass by the factors of its longest sequence."""
    from transformers import AutoConfig, AutoModelForCausalLM

    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
    settings = {**SMALL, "rope_parameters": rope, "original_max_position_embeddings": 24, "max_position_embeddings": 256}
    torch.manual_seed(0)
    own = Policy(AutoModelForCausalLM.from_config(AutoConfig.for_model("phi3", **settings)))
    short, long = long_row(20), long_row(60)
    report = settle_layout(own, [short, long_row(18)])
    assert report["layout"] == "forest" and 24 in report["recheck_lengths"]
    report = recheck(own, [short, long], report["recheck_lengths"])
    assert report["layout"] == "padded", report
