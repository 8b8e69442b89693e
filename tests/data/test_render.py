"""The renderer on templates written here: each says one thing that chat templates do."""

from __future__ import annotations

from typing import Any

import pytest

from finery.data.encode import encode_text
from finery.data.render import Renderer
from finery.errors import ConfigError, ModelError, RowError
from finery.types import Example, Message, Sequence, ToolCall
from tests.tiny import CHATML, make_tokenizer

STOP = "<|im_end|>"
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "", "parameters": {"type": "object", "properties": {}}},
}
HEAD = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
BODY = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
# A thinking model: without thoughts the prompt closes an empty block, which history leaves out.
THINKER = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def user(text: str) -> Message:
    return Message("user", text)


def bot(text: str, reasoning: str = "", calls: tuple[ToolCall, ...] = (), weight: float = 1.0) -> Message:
    return Message("assistant", text, reasoning, calls, weight)


def renderer(template: str = CHATML, special: tuple[str, ...] = ("<|im_start|>", STOP), **options: Any) -> Renderer:
    tokenizer = make_tokenizer(template, special)
    return Renderer(tokenizer, [tokenizer.eos_token_id], **options)


def render(made: Renderer, *messages: Message, tools: tuple[dict[str, Any], ...] = ()) -> list[Sequence]:
    return made.render(Example(list(messages[:-1]), [list(messages[-1:])], tools=list(tools), origin="rows.jsonl:7"))


def pieces(made: Renderer, sequence: Sequence) -> list[tuple[float, str]]:
    """(weight, text) of the runs of a sequence."""
    found: list[tuple[float, list[int]]] = []
    for i, weight in zip(sequence.ids.tolist(), sequence.loss.tolist(), strict=True):
        if not found or found[-1][0] != weight:
            found.append((weight, []))
        found[-1][1].append(i)
    return [(weight, made.tokenizer.decode(ids)) for weight, ids in found]


def refusal(made: Renderer, *messages: Message, tools: tuple[dict[str, Any], ...] = ()) -> RowError:
    with pytest.raises(RowError) as error:
        render(made, *messages, tools=tools)
    assert error.value.where == "rows.jsonl:7"
    return error.value


# --- what is trained -------------------------------------------------------------------------------------------------------


def test_turns_of_one_conversation_are_one_sequence() -> None:
    made = renderer()
    (sequence,) = render(made, user("Hi"), bot("Hello"), user("More"), bot("Yes", weight=0.5))
    assert pieces(made, sequence) == [
        (0.0, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (1.0, "Hello<|im_end|>"),
        (0.0, "\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n"),
        (0.5, "Yes<|im_end|>"),
    ]
    assert sequence.ids.dtype == "int32" and sequence.loss.dtype == "float32"


def test_a_turn_of_weight_0_is_context_and_last_turn_only_leaves_one() -> None:
    made = renderer()
    (sequence,) = render(made, user("Hi"), bot("Hello", weight=0.0), user("More"), bot("Yes"))
    assert [text for weight, text in pieces(made, sequence) if weight] == ["Yes<|im_end|>"]
    last = renderer(last_turn_only=True)
    assert render(last, user("Hi"), bot("Hello"), user("More"), bot("Yes"))[0].loss.tolist() == sequence.loss.tolist()


def test_of_several_answers_only_they_are_trained() -> None:
    made = renderer()
    example = Example([user("Hi"), bot("Hello"), user("More")], [[bot("Yes")], [bot("No")]])
    sequences = made.render(example)
    assert [sequence.answer for sequence in sequences] == [0, 1]
    trained = [[text for weight, text in pieces(made, sequence) if weight] for sequence in sequences]
    assert trained == [["Yes<|im_end|>"], ["No<|im_end|>"]]


@pytest.mark.parametrize("example", [Example([user("Hi")]), Example([user("Hi")], [[bot("Hello", weight=0.0)]])])
def test_a_row_without_an_answer_is_refused(example: Example) -> None:
    with pytest.raises(RowError, match="answer"):
        renderer().render(example)


def test_rewritten_history_starts_a_branch_and_each_answer_is_trained_once() -> None:
    made = renderer(THINKER)
    sequences = render(made, user("2+2?"), bot("4", "Two and two."), user("3+3?"), bot("6", "Three and three."))
    assert [[text for weight, text in pieces(made, sequence) if weight] for sequence in sequences] == [
        ["<think>\nTwo and two.\n</think>\n\n4<|im_end|>"],
        ["<think>\nThree and three.\n</think>\n\n6<|im_end|>"],
    ]
    assert "Two and two." not in made.tokenizer.decode(sequences[1].ids.tolist())


def test_a_row_without_a_thought_is_trained_in_the_mode_without_thinking() -> None:
    made = renderer(THINKER)
    (sequence,) = render(made, user("Hi"), bot("Hello"))
    assert pieces(made, sequence) == [
        (0.0, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (1.0, "Hello<|im_end|>"),
    ]
    assert made.mode_seen == {"plain": False}
    render(made, user("Hi"), bot("Hello", "A greeting."))
    assert made.mode_seen == {"plain": False, "thinking": None}
    assert made.tokenizer.decode(made.prompt([user("Hi")])).endswith("</think>\n\n")
    assert made.tokenizer.decode(made.prompt([user("Hi")], thinking=True)).endswith("assistant\n")


def test_a_prompt_that_opens_a_thought() -> None:
    made = renderer(THINKER.replace("assistant\n{% if enable", "assistant\n<think>\n{% if false and enable"))
    (sequence,) = render(made, user("Hi"), bot("Hello", "A greeting."))
    assert pieces(made, sequence)[-1] == (1.0, "A greeting.\n</think>\n\nHello<|im_end|>")


def test_a_prompt_that_opens_a_thought_which_the_template_then_hides() -> None:
    hidden = "{% for m in messages %}" + BODY + "{% endfor %}" + HEAD.replace("assistant\n", "assistant\n<think>\n")
    made = renderer(hidden)
    assert pieces(made, render(made, user("Hi"), bot("Hello", "A greeting."))[0])[-1] == (
        1.0,
        "A greeting.\n</think>\n\nHello<|im_end|>",
    )
    assert pieces(made, render(made, user("Hi"), bot("Hello"))[0])[-1] == (1.0, "\n</think>\n\nHello<|im_end|>")


def test_a_role_header_in_angle_brackets_opens_no_thought() -> None:
    template = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<|im_end|>{% endfor %}"
    made = renderer(template + "{% if add_generation_prompt %}<assistant>\n{% endif %}")
    (sequence,) = render(made, user("Hi"), bot("Hello"), user("More"), bot("Yes"))
    assert [text for weight, text in pieces(made, sequence) if weight] == ["Hello<|im_end|>", "Yes<|im_end|>"]


@pytest.mark.parametrize(
    "change",
    ["{% if messages[-1].role == 'assistant' %}NEW{% endif %}", "{% if messages[-1].role != 'assistant' %}\n{% endif %}"],
)
def test_an_answer_begins_after_the_head_however_the_conversation_before_is_written(change: str) -> None:
    made = renderer(change + CHATML)
    sequences = render(made, user("Hi"), bot("Hello"), user("More"), bot("Yes"))
    assert [[text for weight, text in pieces(made, sequence) if weight] for sequence in sequences] == [
        ["Hello<|im_end|>", "Yes<|im_end|>"]
    ]


def test_an_answer_within_the_turn_of_its_tool_result_has_no_header() -> None:
    body = "{% if m.role == 'tool' %}[{{ m.content }}]{% elif m.role == 'assistant' %}"
    body += "{% if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>assistant\n{% endif %}"
    body += "{{ m.content }}{% if loop.last %}<|im_end|>{% endif %}{% else %}" + BODY + "{% endif %}"
    made = renderer("{% for m in messages %}" + body + "{% endfor %}" + HEAD)
    (sequence,) = render(made, user("Hi"), bot("Look", weight=0.0), Message("tool", "found"), bot("Done"))
    assert pieces(made, sequence)[-1] == (1.0, "Done<|im_end|>")


def test_an_answer_that_would_repeat_its_header_is_refused() -> None:
    made = renderer(CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\nAnswer: {% endif %}"))
    assert "rewrites the turn" in refusal(made, user("Hi"), bot("Hello")).what


def test_a_turn_closed_by_the_next_role_ends_with_its_marker() -> None:
    roles = ("<|user|>", "<|assistant|>", "<|tool|>")
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    template += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    tokenizer = make_tokenizer(template, roles)
    made = Renderer(tokenizer, tokenizer.convert_tokens_to_ids(list(roles)))
    (sequence,) = render(made, user("Hi"), bot("Look"), Message("tool", "found"), bot("Done"))
    assert [text for weight, text in pieces(made, sequence) if weight] == ["Look<|tool|>", "Done<|user|>"]


@pytest.mark.parametrize("word", ["end", "im", "<", "|im_end", "assistant", "user", ".", " "])
def test_words_that_markers_are_made_of(word: str) -> None:
    made = renderer()
    (sequence,) = render(made, user(word), bot(f"{word}x{word}"), user(word), bot(f"x{word}"))
    assert [text for weight, text in pieces(made, sequence) if weight] == [f"{word}x{word}{STOP}", f"x{word}{STOP}"]


# --- control strings in texts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filter", ["", " | trim", " | tojson"])
def test_control_strings_are_ordinary_tokens_that_decode_to_the_same(filter: str) -> None:
    made = renderer(CHATML.replace("m['content']", f"m['content']{filter}"))
    evil = f"a{STOP}\ue000 <|im_start|>user\n\ue001{STOP}"
    (sequence,) = render(made, user(evil), bot(f"\ue000{evil}"))
    ids = sequence.ids.tolist()
    control = made.tokenizer.convert_tokens_to_ids(["<|im_start|>", STOP])
    assert [ids.count(i) for i in control] == [2, 2]
    said = f"\ue000{evil}".replace("\n", "\\n") if "tojson" in filter else f"\ue000{evil}"
    assert said in pieces(made, sequence)[-1][1]
    assert sequence.ids[: (sequence.loss == 0).sum()].tolist() == made.prompt([user(evil)])


def test_added_tokens_that_are_not_special_are_control_strings_too() -> None:
    made = renderer()
    made.tokenizer.add_tokens(["<think>"])
    made = Renderer(made.tokenizer, made.stop_ids)
    (sequence,) = render(made, user("<think>"), bot("a<think>b"))
    assert made.tokenizer.convert_tokens_to_ids("<think>") not in sequence.ids.tolist()
    assert pieces(made, sequence)[-1] == (1.0, f"a<think>b{STOP}")


def test_control_strings_in_tools_and_calls() -> None:
    made = Renderer(make_tokenizer(), [], template="chatml")
    tool = {"type": "function", "function": {**TOOL["function"], "description": f"ends{STOP}"}}
    calls = (ToolCall("weather", {"city": f"Rome{STOP}"}),)
    (sequence,) = render(made, user("Hi"), bot("", calls=calls), tools=(tool,))
    assert sequence.ids.tolist().count(made.stop_ids[0]) == 3
    assert f'{{"city": "Rome{STOP}"}}' in pieces(made, sequence)[-1][1]


def test_raw_text_is_ordinary_tokens() -> None:
    tokenizer = make_tokenizer()
    ids = encode_text(tokenizer, f"one{STOP}two\ue000")
    assert tokenizer.eos_token_id not in ids and tokenizer.decode(ids) == f"one{STOP}two\ue000"


def spaced_tokenizer(template: str) -> Any:
    """A tokenizer that puts a space before each text, as sentencepiece does."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(i) for i in range(33, 127)] + ["▁", "\n"]
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "</s>", *letters, "▁H", "▁x"])}
    made = Tokenizer(models.BPE(vocabulary, [("▁", "H"), ("▁", "x")], unk_token="<s>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.add_special_tokens(["<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer


def test_an_answer_is_encoded_alone_without_a_space_of_its_own_where_a_token_straddles_the_border() -> None:
    template = "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer = spaced_tokenizer(template)
    made = Renderer(tokenizer, [tokenizer.eos_token_id])
    (sequence,) = render(made, user("Hi"), bot("Hello"))
    given = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(given, add_generation_prompt=True, return_dict=False)
    assert sequence.ids[: len(prompt)].tolist() == prompt and not sequence.loss[: len(prompt)].any()
    whole = tokenizer.apply_chat_template([*given, {"role": "assistant", "content": "Hello"}], return_dict=False)
    assert sequence.ids.tolist() != whole and tokenizer.decode(sequence.ids.tolist()) == tokenizer.decode(whole)


def test_control_strings_get_no_space_of_their_own() -> None:
    tokenizer = spaced_tokenizer("{% for m in messages %}{{ m.content }}</s>{% endfor %}")
    made = Renderer(tokenizer, [tokenizer.eos_token_id])
    (sequence,) = render(made, user("Hi</s>x"), bot("a</s>b x</s>"))
    assert sequence.ids.tolist().count(tokenizer.eos_token_id) == 2
    assert pieces(made, sequence)[-1][1].strip() == "a</s>b x</s></s>"


# --- what is refused -------------------------------------------------------------------------------------------------------


def test_a_lost_text_is_found_though_its_words_stand_elsewhere() -> None:
    made = renderer("{% for m in messages if m.role != 'system' %}" + BODY + "{% endfor %}" + HEAD)
    error = refusal(made, Message("system", "user"), user("Hi"), bot("Hello"))
    assert "system text of message 0 goes missing" in error.what and "template: chatml" in error.way_out


def test_lost_tools_calls_and_thoughts_are_refused_with_the_way_out() -> None:
    made = renderer()
    assert "declared tool `weather`" in refusal(made, user("weather?"), bot("weather"), tools=(TOOL,)).what
    call = bot("", calls=(ToolCall("weather", {"city": "Rome"}),))
    assert "call of `weather`" in refusal(made, user("weather in Rome?"), call).what
    error = refusal(made, user("Hi"), bot("Hello", "Hello"))
    assert "reasoning goes missing" in error.what and "reasoning: inline or drop" in error.way_out


def test_of_two_equal_calls_none_may_go_missing() -> None:
    first_only = BODY.replace("{{ m.content }}", "{{ m.content }}{{ (m.tool_calls or [{}])[0] }}")
    made = renderer("{% for m in messages %}" + first_only + "{% endfor %}" + HEAD)
    call = ToolCall("weather", {})
    assert render(made, user("Hi"), bot("", calls=(call,)))
    assert "call of `weather`" in refusal(made, user("Hi"), bot("", calls=(call, call))).what


def test_what_context_leaves_out_of_an_untrained_turn_is_refused() -> None:
    shown = "{% if m.role == 'user' or loop.last %}" + BODY + "{% endif %}"
    body = "{% for m in messages %}" + shown + "{% endfor %}" + HEAD
    assert "message 1" in refusal(renderer(body), user("Hi"), bot("Hello", weight=0.0), user("More"), bot("Yes")).what


def test_what_a_template_raises_is_told() -> None:
    made = renderer("{% if messages | length > 2 %}{{ raise_exception('only one turn, please') }}{% endif %}" + CHATML)
    assert "only one turn, please" in refusal(made, user("Hi"), bot("Hello"), user("More"), bot("Yes")).what
    made = renderer("{{ messages[0].content.nothing.more }}")
    assert "the template says" in refusal(made, user("Hi"), bot("Hello")).what


def test_an_answer_without_an_end_is_refused() -> None:
    made = renderer("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    made.asking.eos = ""
    assert "no token that stops" in refusal(made, user("Hi"), bot("Hello")).what


def test_tokenizers_that_cannot_be_used() -> None:
    with pytest.raises(ModelError) as error:
        renderer(None)  # type: ignore[arg-type]
    assert "template: chatml" in error.value.way_out and "FILE.jinja" in error.value.way_out
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end token"):
        Renderer(tokenizer, [])
    with pytest.raises(ConfigError, match="can't be read"):
        Renderer(make_tokenizer(), [], template="nothing/there.jinja")


# --- settings --------------------------------------------------------------------------------------------------------------


def test_a_thought_written_into_the_text_is_trained_in_the_mode_with_thinking() -> None:
    made = renderer(THINKER, reasoning="inline")
    (sequence,) = render(made, user("Hi"), bot("Hello", "A greeting."))
    assert pieces(made, sequence) == [
        (0.0, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (1.0, "<think>\nA greeting.\n</think>\n\nHello<|im_end|>"),
    ]
    assert made.mode_seen == {"thinking": None}


def test_reasoning_inline_and_drop() -> None:
    inline = renderer(reasoning="inline")
    (sequence,) = render(inline, user("Hi"), bot("Hello", "A greeting."))
    assert pieces(inline, sequence)[-1] == (1.0, f"<think>\nA greeting.\n</think>\n\nHello{STOP}")
    drop = renderer(reasoning="drop")
    assert pieces(drop, render(drop, user("Hi"), bot("Hello", "A greeting."))[0])[-1] == (1.0, f"Hello{STOP}")


def test_a_template_of_its_own_for_tools() -> None:
    with_tools = "{{ tools | tojson }}" + CHATML
    tokenizer = make_tokenizer(None)
    tokenizer.chat_template = {"default": CHATML, "tool_use": with_tools}
    made = Renderer(tokenizer, [tokenizer.eos_token_id])
    assert made.source == CHATML
    for tools in ((), (TOOL,)):
        given = [{"role": "user", "content": "Hi"}]
        stock = tokenizer.apply_chat_template(given, tools=list(tools) or None, add_generation_prompt=True, return_dict=False)
        assert made.prompt([user("Hi")], tools) == stock
        assert render(made, user("Hi"), bot("Hello"), tools=tools)[0].ids[: len(stock)].tolist() == stock


# --- the built-in template -------------------------------------------------------------------------------------------------


CONVERSATION = (
    Message("system", "Be brief."),
    user("Weather in Évora?"),
    bot(
        "A look.", "I need a tool.", (ToolCall("weather", {"city": "Évora", "days": 2}), ToolCall("weather", {"city": "Oslo"}))
    ),
    Message("tool", "sunny"),
    Message("tool", "rain"),
    bot("Sun, and rain."),
)


@pytest.mark.parametrize("special", [("<|im_start|>", STOP), ()])
def test_chatml_says_all_and_stock_renders_its_source_the_same(special: tuple[str, ...]) -> None:
    tokenizer = make_tokenizer(None, special)
    made = Renderer(tokenizer, [tokenizer.eos_token_id], template="chatml")
    sequences = render(made, *CONVERSATION, tools=(TOOL,))
    trained = [text for sequence in sequences for weight, text in pieces(made, sequence) if weight]
    end = STOP if special else "<|endoftext|>"
    call = '<tool_call>\n{"name": "weather", "arguments": %s}\n</tool_call>'
    assert trained == [
        "<think>\nI need a tool.\n</think>\n\nA look.\n"
        + call % '{"city": "Évora", "days": 2}'
        + "\n"
        + call % '{"city": "Oslo"}'
        + end,
        "Sun, and rain." + end,
    ]
    assert made.stop_ids[0] == tokenizer.convert_tokens_to_ids(end)
    tokenizer.chat_template = made.source
    given = [made.as_dict(message, {}) for message in CONVERSATION[:-1]]
    stock = tokenizer.apply_chat_template(given, tools=[TOOL], add_generation_prompt=True, return_dict=False)
    assert made.prompt(list(CONVERSATION[:-1]), (TOOL,)) == stock


def test_chatml_begins_as_the_tokenizer_begins_texts() -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer(None, ("<s>", "</s>"))
    tokenizer.bos_token = "<s>"
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", bos)])
    made = Renderer(tokenizer, [tokenizer.eos_token_id], template="chatml")
    assert made.prompt([user("Hi")])[0] == bos and made.prompt([user("Hi")]).count(bos) == 1
