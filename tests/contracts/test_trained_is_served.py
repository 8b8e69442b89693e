"""Contract 4: the ids before each trained run are those that a stock server sends for that turn, the run ends with a stop token
and holds what the row says, each answer is trained once; what is refused, the template has no place for.

Checked against stock `apply_chat_template` over the chat templates of the shared test data, each with a tiny tokenizer that has
the template's markers as control tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any, NamedTuple

import pytest

from finery.data.render import Renderer
from finery.errors import RowError
from finery.types import Example, Message, Sequence, ToolCall
from tests.shared import SHARED_DATA, shared

MARKER = re.compile(r"<[^<>\s'\"{}]{1,40}>|\[/?[A-Z][A-Z_ ]{2,30}\]|\[e~\[|\]~b\]|\]~!b\[")
INSIDE_ANSWERS = re.compile(r"tool|call|func|param|response|TOOL|/|think|ACTION|TEXT|RESPONSE|arg")
MODES: list[dict[str, bool]] = [{}, *({"enable_thinking": on, "thinking": on} for on in (False, True))]
TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "depth",
            "description": "Depth of a lake",
            "parameters": {"type": "object", "properties": {"lake": {"type": "string"}}, "required": ["lake"]},
        },
    },
)


def user(text: str) -> Message:
    return Message("user", text)


def bot(text: str, reasoning: str = "", calls: tuple[ToolCall, ...] = (), weight: float = 1.0) -> Message:
    return Message("assistant", text, reasoning, calls, weight)


def call(lake: str, number: int = 1) -> ToolCall:
    return ToolCall("depth", {"lake": lake}, f"call0000{number}")


def result(text: str, number: int = 1) -> Message:
    return Message("tool", text, name="depth", tool_call_id=f"call0000{number}")


class Case(NamedTuple):
    """A conversation; its last turn is the answer."""

    messages: list[Message]
    tools: tuple[dict[str, Any], ...] = ()
    last_turn_only: bool = False


CONVERSATIONS = {
    "one turn": Case([user("Which lake is deep?"), bot("Baikal.")]),
    "system": Case([Message("system", "Speak plainly."), user("Which lake is deep?"), bot("Baikal.")]),
    "four turns": Case([m for n in range(4) for m in (user(f"Question {n}?"), bot(f"Reply\n\n  number {n}."))]),
    "edges": Case([user("  two\n\nlines\t "), bot("\n```html\n<b>bold</b><br>\n```\n 最深 🐟 ")]),
    "role words": Case([user("user"), bot("end"), user("assistant"), bot("im"), user("system"), bot("final")]),
    "thought": Case([user("Deep?"), bot("Baikal.", "It is the deepest.")]),
    "two thoughts": Case([user("Deep?"), bot("Baikal.", "It is the deepest."), user("Wide?"), bot("Superior.", "A wide one.")]),
    "thought, then none": Case([user("Deep?"), bot("Baikal.", "It is the deepest."), user("Wide?"), bot("Superior.")]),
    "tool": Case([user("How deep?"), bot("", calls=(call("Baikal"),)), result("1642 m"), bot("Very.")], TOOLS),
    "text and tool": Case([user("How deep?"), bot("A look.", calls=(call("Évora"),)), result("9 m"), bot("Not.")], TOOLS),
    "parallel": Case(
        [
            user("Both?"),
            bot("", calls=(call("Baikal"), call("Onega", 2))),
            result("1642 m"),
            result("127 m", 2),
            bot("Baikal."),
        ],
        TOOLS,
    ),
    "tool unused": Case([user("Hello"), bot("No tool is needed.")], TOOLS),
    "last turn only": Case([user("Deep?"), bot("Baikal."), user("Wide?"), bot("Superior.")], last_turn_only=True),
    "weights": Case(
        [user("A?"), bot("One.", weight=0.5), user("B?"), bot("Two.", weight=0.0), user("C?"), bot("Three.", weight=2.0)]
    ),
}


class Bench(NamedTuple):
    """A template with its tiny tokenizer and the ids that end a turn."""

    tokenizer: Any
    stops: frozenset[int]


def template_names() -> list[Any]:
    folder = SHARED_DATA / "templates"
    if not folder.exists():
        return [pytest.param("", marks=pytest.mark.skip(reason=f"{folder} is missing: set FINERY_SHARED_DATA"))]
    return sorted(file.stem for file in folder.glob("*.jinja"))


@cache
def bench(name: str, without: str = "") -> Bench:
    """`without`: markers with this word are ordinary text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    source = shared("templates", f"{name}.jinja").read_text(encoding="utf-8")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(["Which lake is deep? Baikal.\n\n", "user\n assistant\n system\n"] * 4, trainer)
    markers = sorted({*MARKER.findall(source), "<BOS>", "<EOS>"} - {"<br>", "<b>", "</b>"})
    markers = [marker for marker in markers if not (without and without in marker)]
    made.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in markers])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<BOS>", eos_token="<EOS>")
    tokenizer.chat_template = source
    stops = {"<EOS>", *(end for case in ("one turn", "tool") for end in ends_of_turns(tokenizer, CONVERSATIONS[case]))}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(stops - {"<EOS>"})})  # some are put together from parts
    return Bench(tokenizer, frozenset(tokenizer.convert_tokens_to_ids(sorted(stops))))


def ends_of_turns(tokenizer: Any, case: Case) -> list[str]:
    """The markers that close the assistant's turns, or open the next turn where nothing closes one."""
    given, found = [as_stock(m) for m in case.messages], []
    for i, message in enumerate(given):
        if message["role"] != "assistant":
            continue
        said = message["content"] or case.messages[i].tool_calls[0].arguments["lake"]
        following = given[i + 1 : i + 2] or [as_stock(user("Next"))]
        try:
            text = stock(tokenizer, given[: i + 1], case.tools, tokenize=False)
            longer = stock(tokenizer, [*given[: i + 1], *following], case.tools, tokenize=False)
            after = text[text.rindex(said) + len(said) :]
        except Exception:
            continue
        closing = [marker for marker in MARKER.findall(after) if not INSIDE_ANSWERS.search(marker)]
        found += closing[:1] or MARKER.findall(longer[len(text) :])[:1]
    return found


def as_stock(message: Message, key: str = "reasoning_content") -> dict[str, Any]:
    """The message as a client of a server writes it."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        found[key] = message.reasoning
    if message.tool_calls:
        found["tool_calls"] = [
            {"type": "function", "id": c.id, "function": {"name": c.name, "arguments": c.arguments}} for c in message.tool_calls
        ]
    if message.role == "tool":
        found |= {"name": message.name, "tool_call_id": message.tool_call_id}
    return found


def stock(tokenizer: Any, given: list[dict[str, Any]], tools: tuple[dict[str, Any], ...], **options: Any) -> Any:
    return tokenizer.apply_chat_template(given, tools=list(tools) or None, return_dict=False, **options)


def served(tokenizer: Any, messages: list[Message], tools: tuple[dict[str, Any], ...]) -> list[list[int]]:
    """The ids that a server sends for the next answer, in every thinking mode that renders."""
    found = []
    for mode in MODES:
        try:
            found.append(stock(tokenizer, [as_stock(m) for m in messages], tools, add_generation_prompt=True, **mode))
        except Exception:
            continue
    return found


def render(name: str, case: Case, without: str = "") -> list[Sequence] | RowError:
    tokenizer, stops = bench(name, without)
    example = Example(case.messages[:-1], [case.messages[-1:]], tools=list(case.tools), origin="rows.jsonl:1")
    try:
        return Renderer(tokenizer, sorted(stops), last_turn_only=case.last_turn_only).render(example)
    except RowError as error:
        return error


def runs_of(sequence: Sequence) -> list[tuple[int, int]]:
    """Where trained runs begin and end."""
    trained = [False, *(sequence.loss > 0).tolist(), False]
    edges = [t for t in range(len(trained) - 1) if trained[t] != trained[t + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def said_by(message: Message) -> list[str]:
    assert isinstance(message.content, str)
    return [
        message.content.strip(),
        message.reasoning,
        *(text for c in message.tool_calls for text in (c.name, c.arguments["lake"])),
    ]


@pytest.mark.parametrize("name", template_names())
def test_context_end_and_words_of_each_trained_run(name: str) -> None:
    tokenizer, stops = bench(name)
    for kind, case in CONVERSATIONS.items():
        sequences = render(name, case)
        if isinstance(sequences, RowError):
            assert_no_place(name, kind, case)
            continue
        turns = [i for i, m in enumerate(case.messages) if m.role == "assistant" and m.weight > 0]
        turns = turns[-1:] if case.last_turn_only else turns
        prompts = {i: served(tokenizer, case.messages[:i], case.tools) for i in turns}
        trained = Counter[int]()
        for sequence in sequences:
            ids = sequence.ids.tolist()
            for begin, end in runs_of(sequence):
                turn = next((i for i, served_ids in prompts.items() if ids[:begin] in served_ids), None)
                assert turn is not None, f"{kind}: no server sends {tokenizer.decode(ids[:begin])!r}"
                text = tokenizer.decode(ids[begin:end])
                assert all(words in text for words in said_by(case.messages[turn])), f"{kind}: {text!r}"
                assert ids[end - 1] in stops, f"{kind}: {text!r} does not end with a stop token"
                assert_no_echo(tokenizer, stops, ids[:begin], ids[begin:end], case.messages[turn], kind)
                assert set(sequence.loss[begin:end].tolist()) == {case.messages[turn].weight}, kind
                trained[turn] += 1
        assert trained == Counter(turns), f"{kind}: turns {turns} are trained {dict(trained)} times"


def assert_no_echo(
    tokenizer: Any, stops: frozenset[int], prompt: list[int], answer: list[int], message: Message, kind: str
) -> None:
    """An answer says nothing that its prompt has said already, and does not stay inside of a thought that the prompt opens."""
    context, text = tokenizer.decode(prompt), tokenizer.decode(answer)
    opened = re.search(r"<(\w*think\w*)>\s*$", context)
    assert not opened or f"</{opened[1]}>" in text, f"{kind}: {text!r} answers inside of a thought"
    if not message.reasoning and not message.tool_calls:  # thoughts and calls may be messages of their own
        assert not context.rstrip().endswith("</think>") or "</think>" not in text, f"{kind}: {text!r} closes a thought again"
        assert stops.isdisjoint(answer[:-1]), f"{kind}: {text!r} goes on after a stop token"
        ends = [0, *(i + 1 for i, token in enumerate(prompt) if token in stops)]
        heads = [m for m in MARKER.findall(tokenizer.decode(prompt[ends[-1] :])) if not INSIDE_ANSWERS.search(m)]
        assert not heads or heads[-1] not in text, f"{kind}: {text!r} repeats the role header"


def assert_no_place(name: str, kind: str, case: Case) -> None:
    """A refusal is right where stock, in no thinking mode, writes all that some turn says after a prompt with all before it."""
    for i in [i for i, m in enumerate(case.messages) if m.role == "assistant"]:
        if not any(can_say(name, case, i, key, mode) for key in ("reasoning_content", "thought") for mode in MODES):
            return
    raise AssertionError(f"{kind} is refused, but the template can say it")


def can_say(name: str, case: Case, i: int, key: str, mode: dict[str, bool]) -> bool:
    given = [as_stock(m, key) for m in case.messages[: i + 1]]
    try:
        prompt = stock(bench(name).tokenizer, given[:i], case.tools, add_generation_prompt=True, tokenize=False, **mode)
        full = stock(bench(name).tokenizer, given, case.tools, tokenize=False, **mode)
    except Exception:
        return False
    others = [str(m.content).strip() for m in case.messages[:i] if m.role != "assistant"]
    return all(words in prompt for words in [*others, *(t["function"]["name"] for t in case.tools)]) and all(
        full.count(words) > len(case.messages[i].tool_calls) if words == "depth" else words in full
        for words in said_by(case.messages[i])
    )


@pytest.mark.parametrize("name", template_names())
def test_control_strings_in_texts_are_ordinary_tokens(name: str) -> None:
    """The same conversation with harmless words in their place has as many control tokens, and the words decode to the same."""
    tokenizer, stops = bench(name)
    controls = set(tokenizer.get_added_vocab().values())
    end = tokenizer.decode([max(stops)])

    def case(words: str) -> Case:
        return Case([user(f"Say {words} now"), bot(f"Here: {words}{words} and"), user(words), bot(f"{words}\nDone")])

    wild, tame = render(name, case(f"{end}<EOS>")), render(name, case("harmless"))
    if isinstance(tame, RowError):
        assert isinstance(wild, RowError)
        return
    assert not isinstance(wild, RowError), wild
    for one, other in zip(wild, tame, strict=True):
        count = [sum(i in controls for i in sequence.ids.tolist()) for sequence in (one, other)]
        assert count[0] == count[1]
        runs = [[sequence.ids[a:b].tolist() for a, b in runs_of(sequence)] for sequence in (one, other)]
        texts = [[tokenizer.decode(ids) for ids in found] for found in runs]
        assert texts[0] == [text.replace("harmless", f"{end}<EOS>") for text in texts[1]]
        assert all(ids[-1] in stops and stops.isdisjoint(ids[:-1]) for ids in runs[0])


@pytest.mark.parametrize("name", template_names())
def test_what_is_trained_does_not_depend_on_the_vocabulary(name: str) -> None:
    """Where `<think>` is ordinary text, the trained texts are those of a vocabulary that has it as a token."""
    if not any("think" in marker for marker in bench(name).tokenizer.get_added_vocab()):
        return
    for kind in ("one turn", "four turns", "thought", "two thoughts", "thought, then none", "tool"):
        texts = []
        for without in ("", "think"):
            tokenizer, sequences = bench(name, without).tokenizer, render(name, CONVERSATIONS[kind], without)
            found = [] if isinstance(sequences, RowError) else sequences
            texts.append([tokenizer.decode(sequence.ids[a:b].tolist()) for sequence in found for a, b in runs_of(sequence)])
        assert texts[0] == texts[1], kind


@pytest.mark.parametrize("name", template_names())
def test_chosen_and_rejected_are_trained_after_the_same_prompt(name: str) -> None:
    tokenizer, stops = bench(name)
    prompt = [user("Deep?"), bot("Baikal."), user("Wide?")]
    example = Example(prompt, [[bot("Superior.")], [bot("A puddle.")]])
    try:
        sequences = Renderer(tokenizer, sorted(stops)).render(example)
    except RowError:
        assert_no_place(name, "pair", Case([*prompt, bot("Superior.")]))
        return
    assert [sequence.answer for sequence in sequences] == [0, 1]
    (begin, end), other = *runs_of(sequences[0]), *runs_of(sequences[1])
    assert begin == other[0] and sequences[0].ids[:begin].tolist() == sequences[1].ids[:begin].tolist()
    assert sequences[0].ids[:begin].tolist() in served(tokenizer, prompt, ())
    assert "Superior." in tokenizer.decode(sequences[0].ids[begin:end])
    assert "A puddle." in tokenizer.decode(sequences[1].ids[other[0] : other[1]])


@pytest.mark.parametrize("name", template_names())
def test_prompt_is_the_context_that_was_trained(name: str) -> None:
    tokenizer, stops = bench(name)
    renderer = Renderer(tokenizer, sorted(stops))
    for kind in ("system", "thought", "tool"):
        case = CONVERSATIONS[kind]
        renderer.mode_seen.clear()
        try:
            sequence = renderer.render(Example(case.messages[:-1], [case.messages[-1:]], tools=list(case.tools)))[-1]
        except RowError:
            continue
        assert sequence.ids[: runs_of(sequence)[-1][0]].tolist() == renderer.prompt(case.messages[:-1], case.tools)


def test_most_templates_say_most_conversations() -> None:
    """A renderer that refuses everything is never wrong: so many templates of the survey have a place for these kinds."""
    names = [name for name in template_names() if isinstance(name, str)]
    if not names:
        pytest.skip("the templates of the shared test data are missing")
    exact = Counter(kind for name in names for kind in SURVEYED if not isinstance(render(name, CONVERSATIONS[kind]), RowError))
    assert all(exact[kind] >= least for kind, least in SURVEYED.items()), dict(exact)


SURVEYED = {"one turn": 67, "system": 66, "four turns": 67, "edges": 67, "two thoughts": 36, "tool": 54, "parallel": 48}
