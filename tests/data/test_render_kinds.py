"""What is learned of a kind of conversation holds for all its rows: contexts are stock's, whatever the texts are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finery.data.render import Renderer
from finery.data.template import Template
from finery.types import Example, Message
from tests.tiny import CHATML, make_tokenizer

STOP = "<|im_end|>"
HISTORY = (
    "{% set text = m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' and not loop.last else m.content %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "trimmed": CHATML.replace("m['content']", "m['content'] | trim"),
    "a block hidden in history": CHATML.replace("%}<|im", "%}" + HISTORY + "<|im", 1).replace("m['content']", "text"),
    "trims the last": CHATML.replace("m['content']", "(m['content'] | trim if loop.last else m['content'])"),
    "looks for a word": CHATML.replace(
        "{{ m['content'] }}", "{{ 'LOUD' if 'loud' in messages[-1].content else '' }}{{ m['content'] }}"
    ),
    "compares": CHATML.replace("{{ m['content'] }}", "{{ '!' if messages[-1].content == 'quiet' else '' }}{{ m['content'] }}"),
}
TEXTS = st.one_of(
    st.sampled_from(
        ["loud", "not loud", "quiet", "<think>a</think>b", "end", "user", " edge ", "\n", "é🐟", "{{ 1 }}", "zqmark0textqz"]
    ),
    st.text('ab <|im_end>\n"\\{}%é🐟', max_size=12),
)


def stock(tokenizer: Any, messages: list[Message]) -> list[int]:
    said = [{"role": m.role, "content": m.content} for m in messages]
    return tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.lists(st.lists(TEXTS, min_size=4, max_size=6).filter(lambda texts: len(texts) % 2 == 0), min_size=2, max_size=3))
def test_each_answer_is_trained_once_after_what_stock_sends(name: str, rows: list[list[str]]) -> None:
    tokenizer = make_tokenizer(TEMPLATES[name])
    renderer = Renderer(tokenizer, [tokenizer.eos_token_id])
    for texts in rows:
        texts = [text.replace(STOP, "") for text in texts]  # stock takes it for the end of a turn
        messages = [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts)]
        contexts = {tuple(stock(tokenizer, messages[:i])): i for i in range(1, len(messages), 2)}
        trained = []
        for sequence in renderer.render(Example(messages[:-1], [messages[-1:]])):
            ids, loss = sequence.ids.tolist(), sequence.loss.tolist()
            begins = [t for t, weight in enumerate(loss) if weight and not loss[t - 1]]
            ends = [t + 1 for t, weight in enumerate(loss) if weight and (t + 1 == len(loss) or not loss[t + 1])]
            for begin, end in zip(begins, ends, strict=True):
                turn = contexts.get(tuple(ids[:begin]))
                assert turn is not None, tokenizer.decode(ids[:begin])
                assert texts[turn].strip() in tokenizer.decode(ids[begin:end])
                assert ids[end - 1] == tokenizer.eos_token_id
                trained.append(turn)
        assert sorted(trained) == sorted(contexts.values())


def test_rows_of_a_known_kind_cost_two_renders_and_one_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer()
    asked: list[bool | None] = []
    ask = Template.ask
    monkeypatch.setattr(Template, "ask", lambda self, *args: asked.append(args[-1]) or ask(self, *args))
    renderer = Renderer(tokenizer, [tokenizer.eos_token_id])

    def render(number: int) -> None:
        turns = [Message(role, f"{role} {turn} {number}") for turn in range(5) for role in ("user", "assistant")]
        renderer.render(Example(turns[:-1], [turns[-1:]]))

    render(0)
    asked.clear()
    encoded: list[str] = []
    encode = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer), "__call__", lambda self, text, **options: encoded.append(text) or encode(self, text, **options)
    )
    for number in range(1, 4):
        render(number)
    assert len(asked) == 2 * 3 and len(encoded) == 3


def test_kinds_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finery.data.render.KEPT_KINDS", 2)
    tokenizer = make_tokenizer()
    renderer = Renderer(tokenizer, [tokenizer.eos_token_id])
    for turns in range(1, 6):
        messages = [Message(role, "a") for _ in range(turns) for role in ("user", "assistant")]
        renderer.render(Example(messages[:-1], [messages[-1:]]))
        assert len(renderer.learned) <= 2
