"""Generation: stops at the stop token, streams whole letters, leaves a training model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finery.config.schema import Config, Lora
from finery.infer.hf import adapter_off, generate, stock_attention
from finery.model.adapter import add_adapter
from finery.model.load import load_model, load_tokenizer
from finery.model.policy import Policy
from tests.tiny import make_model

PROMPT = "Name a metal"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, list[int]]:
    folder = make_model(tmp_path_factory.mktemp("generate") / "model")
    model, _ = load_model(Config(model=str(folder), data="none"))
    return (model, *load_tokenizer(str(folder)))


def prompt_ids(tokenizer: Any) -> list[int]:
    return tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]


def greedy(model: Any, ids: list[int], stops: list[int], most: int) -> list[int]:
    """The most likely tokens by the plainest loop there is."""
    said: list[int] = []
    for _ in range(most):
        token = int(model(torch.tensor([ids + said])).logits[0, -1].argmax())
        said.append(token)
        if token in stops:
            break
    return said


def test_the_most_likely_tokens_and_their_stop(loaded: tuple[Any, Any, list[int]]) -> None:
    model, tokenizer, stops = loaded
    ids = prompt_ids(tokenizer)
    with torch.no_grad():
        expected = greedy(model, ids, stops, 12)
    answer = generate(model, tokenizer, ids, stops, max_new_tokens=12)
    assert answer.ids == [i for i in expected if i not in stops]
    assert answer.finish == ("stop" if expected[-1] in stops else "length")
    third = expected[2]  # taken as a stop token, it ends the answer and is no part of it
    stopped = generate(model, tokenizer, ids, [third], max_new_tokens=12)
    assert stopped.finish == "stop" and stopped.ids == expected[: expected.index(third)]


def test_pieces_join_to_the_text_and_letters_are_whole(loaded: tuple[Any, Any, list[int]]) -> None:
    model, tokenizer, stops = loaded
    pieces: list[str] = []
    answer = generate(
        model, tokenizer, prompt_ids(tokenizer), stops, max_new_tokens=40, temperature=5.0, seed=3, on_text=pieces.append
    )
    assert "".join(pieces) == answer.text == tokenizer.decode(answer.ids, skip_special_tokens=False)
    assert len(pieces) > 1


def test_a_letter_of_several_tokens_waits(loaded: tuple[Any, Any, list[int]]) -> None:
    from finery.infer.hf import Pieces

    _, tokenizer, stops = loaded
    shown: list[str] = []
    pieces = Pieces(tokenizer, stops, shown.append, None)
    pieces.put(torch.tensor([1, 2]))  # the prompt
    ids = tokenizer("冰🙂", add_special_tokens=False)["input_ids"]
    assert len(ids) > 2  # bytes, to this tokenizer
    for i in ids:
        pieces.put(torch.tensor([i]))
    pieces.end()
    assert shown == ["冰", "🙂"]


def test_nothing_is_lost_after_broken_letters() -> None:
    """A decoder that spells letters in bytes (`<0xE5>`) turns a whole letter into U+FFFD when a broken one follows."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    from finery.infer.hf import Pieces

    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}, "a": 257, "</s>": 258}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    shown: list[str] = []
    pieces = Pieces(tokenizer, [258], shown.append, None)
    pieces.put(torch.tensor([0]))  # the prompt
    letter = [byte + 1 for byte in "冰".encode()]
    for i in [*letter, letter[0], 257, *letter, 257, 258]:
        pieces.put(torch.tensor([i]))
    pieces.end()
    assert pieces.text == "".join(shown)
    assert shown[0] == "冰" and pieces.text.endswith("a冰a") and pieces.text.count("冰") == 2


def test_a_seed_repeats_an_answer(loaded: tuple[Any, Any, list[int]]) -> None:
    model, tokenizer, stops = loaded
    ask = {"max_new_tokens": 16, "temperature": 3.0}
    one, same, other = (generate(model, tokenizer, prompt_ids(tokenizer), stops, seed=s, **ask).ids for s in (1, 1, 2))
    assert one == same != other


def test_cancelled_in_the_middle(loaded: tuple[Any, Any, list[int]]) -> None:
    model, tokenizer, stops = loaded
    count = 0

    def enough() -> bool:
        nonlocal count
        count += 1
        return count == 3

    answer = generate(model, tokenizer, prompt_ids(tokenizer), [10**6], max_new_tokens=50, cancelled=enough)
    assert (answer.finish, len(answer.ids)) == ("cancelled", 3)

    def interrupt(piece: str) -> None:
        raise KeyboardInterrupt

    assert generate(model, tokenizer, prompt_ids(tokenizer), stops, max_new_tokens=50, on_text=interrupt).finish == "cancelled"
    assert generate(model, tokenizer, prompt_ids(tokenizer), stops, max_new_tokens=4).ids  # still usable


def test_a_training_model_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    config = Config(model=str(folder), data="none", adapter=Lora(rank=4, dropout=0.5))
    model, _ = load_model(config)
    tokenizer, stops = load_tokenizer(str(folder))
    untouched = generate(model, tokenizer, prompt_ids(tokenizer), stops, max_new_tokens=8)
    model = add_adapter(model, config)
    Policy(model).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    attention, modes = model.get_base_model().config._attn_implementation, [m.training for m in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tuned = generate(model, tokenizer, prompt_ids(tokenizer), stops, max_new_tokens=8, seed=1)
    assert torch.equal(torch.rand(3), expected)  # the training's random numbers go on undisturbed
    assert model.get_base_model().config._attn_implementation == attention == "finery_forest"
    assert [m.training for m in model.modules()] == modes
    with adapter_off(model):
        base = generate(model, tokenizer, prompt_ids(tokenizer), stops, max_new_tokens=8)
    assert base == untouched and tuned.ids != untouched.ids


def test_stock_attention_comes_back_after_an_error(tmp_path: Path) -> None:
    model, _ = load_model(Config(model=str(make_model(tmp_path / "model")), data="none"))
    policy = Policy(model)
    policy.train()
    with pytest.raises(RuntimeError, match="no"), stock_attention(model):
        assert model.config._attn_implementation == "sdpa" and not model.training
        raise RuntimeError("no")
    assert model.config._attn_implementation == "finery_forest" and model.training
