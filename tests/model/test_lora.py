"""Our LoRA layer computes what peft's computes, and steps aside wherever it is not the plain one."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear

from finery.model.lora import FusedLinear


def layer(bias: bool = True, **settings) -> FusedLinear:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["0"], init_lora_weights=False, **settings)
    config._register_custom_module({torch.nn.Linear: FusedLinear})
    made = inject_adapter_in_model(config, torch.nn.Sequential(torch.nn.Linear(10, 7, bias=bias)))[0]
    assert isinstance(made, FusedLinear)
    return made


def result(made: FusedLinear, forward, x: torch.Tensor) -> list[torch.Tensor]:
    made.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    y = forward(made, x)
    (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in made.parameters() if p.grad is not None)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(10,), (5, 10), (2, 3, 10)])
def test_output_and_gradients_are_pefts(bias, shape):
    made, x = layer(bias), torch.randn(shape if len(shape) > 1 else (1, 10))
    found, expected = result(made, FusedLinear.forward, x), result(made, Linear.forward, x)
    assert len(found) == len(expected) == 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_those_of_finite_differences():
    made, x = layer().double(), torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, (x,))


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_anything_else_is_pefts_own(settings):
    made, x = layer(**settings).train(), torch.randn(5, 10)
    for a, b in zip(result(made, FusedLinear.forward, x), result(made, Linear.forward, x), strict=True):
        assert torch.equal(a, b)


def test_switched_off_and_merged():
    made, x = layer(), torch.randn(5, 10)
    with_adapter, plain = made(x), made.base_layer(x)
    made.enable_adapters(False)
    assert torch.equal(made(x), plain)
    made.enable_adapters(True)
    made.merge()
    torch.testing.assert_close(made(x), with_adapter)
    assert not torch.allclose(with_adapter, plain)


def test_under_autocast_peft_decides_the_types():
    made, x = layer(), torch.randn(5, 10)
    with torch.autocast("cpu", torch.bfloat16):
        assert made(x).dtype == Linear.forward(made, x).dtype
