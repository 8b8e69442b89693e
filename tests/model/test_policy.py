"""The head in chunks, and the policy under wrappers."""

from __future__ import annotations

import pytest
import torch

from finery.data.batch import to_batch
from finery.data.pack import pack
from finery.model import head
from finery.model.head import Shape, score
from finery.model.policy import Policy
from finery.types import Row
from tests.contracts.test_packed_is_alone import forest_rows, tiny

NEEDS = ("logp", "hit", "entropy", "mean_logp")


@pytest.mark.parametrize("shape", [Shape(), Shape(0.25), Shape(1.5, 2.0)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_scores_in_chunks_equal_those_of_full_logits(monkeypatch, shape, bias, frozen):
    monkeypatch.setitem(head.CHUNK_NUMBERS, "cpu", 64 * 11)  # chunks of 64
    torch.manual_seed(0)
    matrix = torch.nn.Linear(7, 11, bias=bias).double().requires_grad_(not frozen)
    hidden = torch.randn(150, 7, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 11, (150,))
    weights = torch.randn(2, 150)

    scores = score(hidden, target, matrix, shape, NEEDS)
    (weights[0] * scores.logp + weights[1] * scores.mean_logp).sum().backward()
    found = [hidden.grad.clone(), *(p.grad.clone() for p in matrix.parameters() if not frozen)]

    hidden.grad = None
    matrix.zero_grad()
    logits = matrix(hidden) * shape.scale
    if shape.softcap is not None:
        logits = torch.tanh(logits / shape.softcap) * shape.softcap
    logps = logits.log_softmax(1)
    logp, mean_logp = logps.gather(1, target[:, None])[:, 0], logps.mean(1)
    (weights[0] * logp + weights[1] * mean_logp).sum().backward()
    expected = [hidden.grad, *(p.grad for p in matrix.parameters() if not frozen)]

    torch.testing.assert_close(scores.logp.double(), logp, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.mean_logp.double(), mean_logp, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.entropy.double(), -(logps.exp() * logps).sum(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(scores.hit, logits.argmax(1) == target)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_only_what_is_needed_is_computed():
    scores = Policy(tiny("llama"))(to_batch(pack(forest_rows())))
    assert scores.logp is not None and scores.hit is scores.entropy is scores.mean_logp is None


def test_full_logits_never_exist(monkeypatch):
    """The largest tensor with a vocabulary's width is a chunk's, forward and backward."""
    monkeypatch.setitem(head.CHUNK_NUMBERS, "cpu", 64 * 5000)
    matrix = torch.nn.Linear(4, 5000, bias=False).requires_grad_(False)
    hidden, target = torch.randn(400, 4, requires_grad=True), torch.zeros(400, dtype=torch.int64)

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                Largest.size = max(Largest.size, out.numel())
            return out

    with Largest():
        score(hidden, target, matrix, Shape(), ("logp", "hit")).logp.sum().backward()
    assert Largest.size == 64 * 5000


def test_a_pass_without_predictions_has_a_graph():
    rows = forest_rows()[1:]
    for row in rows:
        row.sequences[0].loss[:] = 0
    policy = Policy(tiny("llama"))
    scores = policy(to_batch(pack(rows)), ("logp", "hit"))
    assert scores.logp.shape == scores.hit.shape == (0,)
    scores.logp.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in policy.parameters())


def test_wrapped_by_accelerate():
    from accelerate import Accelerator

    policy, batch = Policy(tiny("llama")), to_batch(pack(forest_rows()))
    expected = policy(batch, ("logp", "hit"))
    wrapped = Accelerator(cpu=True).prepare(policy)
    found = wrapped(batch, ("logp", "hit"))
    assert torch.equal(found.logp, expected.logp) and torch.equal(found.hit, expected.hit)


def test_padded_rows_stay_within_the_size_of_the_batch():
    from finery.model.policy import padded_rows

    rows = forest_rows()
    batch = to_batch(pack([Row(row.example, [each], 0) for row in rows for each in row.sequences]))
    groups = padded_rows(batch)
    assert len(groups) > 1
    assert all(ids.numel() <= len(batch.ids) for ids, *_ in groups)
    assert sorted(torch.cat([group[-1] for group in groups]).tolist()) == list(range(len(batch.source)))


def test_the_attention_switch_leaves_no_trace_in_saved_configs(tmp_path):
    model = tiny("llama")
    Policy(model)
    model.save_pretrained(tmp_path)
    assert attention_name_in(tmp_path) is False


def attention_name_in(folder) -> bool:
    from finery.model.attention import NAME

    return any(NAME in path.read_text() for path in folder.glob("*.json"))
