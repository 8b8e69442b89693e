"""A model's chat template: its source, what it writes for a conversation, and what it looks for in texts."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from finery.errors import ConfigError, ModelError, RowError

CHATML = Path(__file__).with_name("chatml.jinja")
CHATML_END = "<|im_end|>"
WAYS_OUT = "template: FILE.jinja, or template: chatml"
THINKING = {True: {"enable_thinking": True, "thinking": True}, False: {"enable_thinking": False, "thinking": False}, None: {}}
GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # a tag of transformers, which plain Jinja does not know
OF_KEYS = ("get", "pop", "selectattr", "rejectattr", "map", "groupby", "sort", "join", "default", "strftime_now")
OF_EDGES = ("strip", "lstrip", "rstrip")

Dicts = list[dict[str, Any]]


class Template:
    """A chat template, asked through the tokenizer that brings it. `source`: the Jinja text in force."""

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.sources = template_sources(tokenizer, template)
        self.source = self.sources["default"]

    def ask(self, messages: Dicts, tools: Dicts, prompt: bool, mode: bool | None) -> str:
        """What it writes, in the sandbox of transformers; RowError with the template's own words where it refuses.

        `prompt`: with the head of the answer to come; `mode`: thinking switched on, off, or not spoken of.
        """
        source = self.sources.get("tool_use", self.source) if tools else self.source
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                tools=tools or None,
                chat_template=source,
                add_generation_prompt=prompt,
                tokenize=False,
                **THINKING[mode],
            )
        except Exception as error:  # whatever a template's author raises or forgets
            raise RowError("the template refuses it", f"the template says: {str(error)[:300]}", way_out=WAYS_OUT) from None

    def looks_for(self, text: str) -> bool:
        """Whether the template may treat this text in a way of its own: it searches, splits or compares texts for a word."""
        exact, within = self.words
        return text in exact or any(word in text for word in within)

    @cached_property
    def words(self) -> tuple[set[str], list[str]]:
        """The words that the template compares whole texts with, and those that it searches in texts."""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
        exact: set[str] = set()
        within: set[str] = set()
        try:
            for source in self.sources.values():
                collect_words(environment.parse(GENERATION.sub("", source)), exact, within)
        except TemplateError:  # a tag that is not known here: then nothing is known about it
            return exact, [""]
        return exact, sorted(word for word in within if word)


def collect_words(tree: Any, exact: set[str], within: set[str]) -> None:
    """The constant texts of comparisons, searches and assignments of a parsed template."""
    from jinja2 import nodes

    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Filter, nodes.Test, nodes.Assign)):
        if isinstance(node, nodes.Compare):
            searching = any(operand.op in ("in", "notin") for operand in node.ops)
            (within if searching else exact).update(w for part in (node.expr, *node.ops) for w in direct(part))
            continue
        if isinstance(node, nodes.Assign):
            within.update(direct(node.node))
            continue
        name = (
            node.node.attr
            if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr)
            else getattr(node, "name", "")
        )
        if name in OF_KEYS:
            continue
        words = {word for part in node.args for word in direct(part)}
        within.update(word for word in words if name not in OF_EDGES or word.strip())


def direct(node: Any) -> list[str]:
    """The text that a node of a template is, if it is one; of a list of texts all."""
    from jinja2 import nodes

    if isinstance(node, nodes.Operand):
        return direct(node.expr)
    if isinstance(node, nodes.Const):
        return [node.value] if isinstance(node.value, str) else []
    return [text for item in node.items for text in direct(item)] if isinstance(node, (nodes.List, nodes.Tuple)) else []


def template_sources(tokenizer: Any, template: str | None) -> dict[str, str]:
    """The Jinja texts in force: the model's own (`tool_use` where it has another one for tools), chatml, a file, the text."""
    if template is None:
        own = tokenizer.chat_template
        if not own:
            way_out = "template: chatml (built in), or template: FILE.jinja"
            where = str(getattr(tokenizer, "name_or_path", ""))
            raise ModelError("this model has no chat template, so conversations can't be written for it", where, way_out)
        if isinstance(own, str):
            return {"default": own}
        return {"default": own.get("default") or next(iter(own.values())), **own}
    if template == "chatml":
        return {"default": chatml(tokenizer)}
    if "{" in template:
        return {"default": template}
    try:
        return {"default": Path(template).read_text(encoding="utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the template can't be read: {error}", template, "name a .jinja file in UTF-8, or chatml") from None


def chatml(tokenizer: Any) -> str:
    """The built-in template for this tokenizer: answers end with a token that stops, texts begin as in pre-training."""
    source = CHATML.read_text(encoding="utf-8")
    if CHATML_END not in tokenizer.get_added_vocab():
        source = source.replace("set answer_end = '<|im_end|>'", "set answer_end = eos_token")
    begins = tokenizer("a")["input_ids"][:1]
    return "{{- bos_token }}\n" + source if begins and begins == [tokenizer.bos_token_id] else source
