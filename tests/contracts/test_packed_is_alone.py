"""Contract 1: a sequence in a packed pass has the log-probabilities and gradients that it has alone; sharing changes nothing.

The reference is the stock model with its own attention and full logits, one sequence at a time. float32, tiny random models.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finery.config.schema import Config
from finery.data.batch import to_batch
from finery.data.pack import pack
from finery.model.adapter import add_adapter
from finery.model.policy import LAYOUTS, Policy
from finery.model.selfcheck import settle_layout
from finery.types import Example, Row, Sequence
from tests.shared import case_folder
from tests.tiny import make_tokenizer

VOCABULARY = 97
WINDOW = 16  # tokens; crossed by most sequences below

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "initializer_range": 0.2,  # large enough that a leak or a wrong position shows
}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": WINDOW}
FAMILIES = {
    "llama": {},
    "qwen3": {**MIXED, "use_sliding_window": True},
    "gemma3_text": {**MIXED, "query_pre_attn_scalar": 8},
    "gemma2": {**MIXED, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "phi3": {"sliding_window": WINDOW},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True, "alibi": False},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256},
}
# What the self-check settles on with transformers 5.24. A change is news, not an accident.
EXPECTED = {"gemma2": "dense", "falcon": "dense"}


def tiny(family: str):
    """A random model of the family, the same each time."""
    torch.manual_seed(1)
    settings = {**SMALL, **FAMILIES[family]}
    if family in ("falcon", "gpt2"):  # these derive it
        del settings["head_dim"]
    config = AutoConfig.for_model(family, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


def sequence(ids, row: int, answer: int = 0, seed: int = 0) -> Sequence:
    """Weights of 0 to 2, some tokens without loss."""
    random = np.random.default_rng(seed + len(ids))
    loss = random.integers(0, 3, len(ids)).astype(np.float32)
    loss[0] = 0
    return Sequence(np.asarray(ids, np.int32), loss, row, answer)


def forest_rows() -> list[Row]:
    """A pair that shares a prompt, a branch within a branch, one that ends where others go on, and single sequences."""
    random = np.random.default_rng(7)

    def text(n: int) -> list[int]:
        return random.integers(3, VOCABULARY, n).tolist()

    prompt, middle = text(21), text(6)
    tree = [prompt + middle + text(9), prompt + middle + text(23), prompt + text(5), prompt + middle]
    lonely = [text(40), text(2), text(18)]
    rows = [Row(Example(), [sequence(ids, 0, k, seed=k) for k, ids in enumerate(tree)], 0)]
    return rows + [Row(Example(), [sequence(ids, 1 + k)], 0) for k, ids in enumerate(lonely)]


def alone(model, rows: list[Row]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Weighted log-probabilities of all predictions in the order of `pack`, and the gradients of their sum: stock model."""
    model.zero_grad()
    parts = []
    for row in rows:
        for each in row.sequences:
            ids = torch.from_numpy(each.ids.astype(np.int64))[None]
            logps = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            at = torch.from_numpy(np.flatnonzero(each.loss))
            weight = torch.from_numpy(each.loss)[at]
            parts.append(weight * logps[at - 1, ids[0, at]])
    logp = torch.cat(parts)
    logp.sum().backward()
    return logp.detach(), gradients(model)


def packed(policy: Policy, rows: list[Row]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    policy.zero_grad()
    batch = to_batch(pack(rows))
    logp = batch.weight * policy(batch).logp
    logp.sum().backward()
    return logp.detach(), gradients(policy.model)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_equal(found, expected, relative: float = 2e-4) -> None:
    logp, grads = found
    torch.testing.assert_close(logp, expected[0], atol=5e-5, rtol=1e-5)
    assert grads.keys() == expected[1].keys()
    for name, grad in grads.items():
        scale = expected[1][name].abs().max().clamp(min=1e-6)
        assert (grad - expected[1][name]).abs().max() <= relative * scale, name


@pytest.mark.parametrize("family", FAMILIES)
def test_settled_layout_equals_the_stock_model_alone(family):
    model, rows = tiny(family), forest_rows()
    expected = alone(model, rows)
    policy = Policy(model)
    report = settle_layout(policy, rows)
    assert report["layout"] == EXPECTED.get(family, "forest"), report
    assert report["head"] == "chunked"
    check_equal(packed(policy, rows), expected)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("family", FAMILIES)
def test_forced_layouts(family, layout):
    model, rows = tiny(family), forest_rows()
    expected = alone(model, rows)
    policy = Policy(model)
    assert settle_layout(policy, rows, layout)["layout"] == layout
    check_equal(packed(policy, rows), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_an_adapter(family):
    """Gradients of the adapter alone; its second matrices are moved away from zero."""
    config = Config(model="tiny", data="none")
    model, rows = add_adapter(tiny(family), config), forest_rows()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    expected = alone(model, rows)
    policy = Policy(model)
    settle_layout(policy, rows)
    check_equal(packed(policy, rows), expected)
    assert expected[1] and all("lora_" in name for name in expected[1])


def test_shared_prefix_equals_separate_copies():
    model, rows = tiny("llama"), forest_rows()
    separate = [Row(row.example, [each], 0) for row in rows for each in row.sequences]
    policy = Policy(model)
    shared_batch, separate_batch = pack(rows), pack(separate)
    assert len(shared_batch.ids) < len(separate_batch.ids)
    check_equal(packed(policy, rows), packed(policy, separate))


def test_order_of_rows_changes_nothing():
    policy, rows = Policy(tiny("llama")), forest_rows()
    forwards, backwards = to_batch(pack(rows)), to_batch(pack(rows[::-1]))

    def by_row(batch):
        logp = (policy(batch).logp * batch.weight).detach()
        group = batch.answer_group[batch.sequence_answer[batch.owner]]
        return {batch.rows[g]: float(logp[group == g].sum()) for g in range(len(batch.rows))}

    first, second = by_row(forwards), by_row(backwards)
    assert first.keys() == second.keys()
    for row, value in first.items():
        assert second[row] == pytest.approx(value, rel=1e-5)


def test_recomputed_activations_give_the_same_gradients():
    model, rows = tiny("qwen3"), forest_rows()
    policy = Policy(model)
    policy.train()
    expected = packed(policy, rows)
    renamed = hasattr(model, "activation_checkpointing_enable")  # transformers 5.24
    enable = model.activation_checkpointing_enable if renamed else model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    assert model.base_model.layers[0].gradient_checkpointing
    check_equal(packed(policy, rows), expected)


def test_rows_of_a_pass_learn_nothing_from_one_another():
    """The case training-packing-leak: three rows say a word, three ask for it; packing must not help."""
    folder = case_folder("training-packing-leak")
    tokenizer = make_tokenizer()
    torch.manual_seed(1)
    config = {**SMALL, "vocab_size": len(tokenizer), "tie_word_embeddings": False}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **config)).eval()
    rows = []
    for number, line in enumerate((folder / "rows.jsonl").read_text().splitlines()):
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        start, ids = len(tokenizer(prompt)["input_ids"]), tokenizer(whole)["input_ids"]
        loss = np.array([0] * start + [1] * (len(ids) - start), np.float32)
        rows.append(Row(Example(), [Sequence(np.array(ids, np.int32), loss, number)], len(ids)))
    assert len(rows) == 6
    each = [float(alone(model, [row])[0].sum()) for row in rows]
    expected = alone(model, rows)
    policy = Policy(model)
    assert settle_layout(policy, rows)["layout"] == "forest"
    for order in ([0, 1, 2, 3, 4, 5], [2, 0, 5, 1, 4, 3]):
        batch = to_batch(pack([rows[i] for i in order]))
        logp = policy(batch).logp.detach()
        found = [float(logp[batch.owner == place].sum()) for place in range(6)]
        assert found == pytest.approx([each[i] for i in order], rel=1e-4)
        grads = packed(policy, [rows[i] for i in order])[1]
        for name, grad in grads.items():
            assert (grad - expected[1][name]).norm() <= 1e-3 * expected[1][name].norm(), name
