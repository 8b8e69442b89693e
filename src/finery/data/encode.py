"""From rendered text to token ids, in which control strings that stand in somebody's text are ordinary tokens.

A user who writes `<|im_end|>` writes ten letters, not the end of a turn. So control strings in texts are replaced by stand-ins
before a template sees them, and put back here, encoded as ordinary tokens.
"""

from __future__ import annotations

import re
from typing import Any

STAND_INS = range(0xE000, 0xF8FF)  # Unicode's private use area


class Encoder:
    """A tokenizer that knows its control strings. Nothing of a conversation is kept between calls."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        controls = sorted((text for text in control_strings(tokenizer) if text.strip()), key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, controls))) if controls else None
        self.control_ids = {tokenizer.convert_tokens_to_ids(text) for text in controls}

    def protect(self, text: str, table: dict[str, str]) -> str:
        """`text` with stand-ins for its control strings; `table` (stand-in -> control string) grows."""
        if self.control is None or not self.control.search(text):
            return text
        return self.control.sub(lambda found: stand_in(found[0], text, table), text)

    def encode(self, text: str, table: dict[str, str]) -> list[int]:
        """Ids of a rendered text; markers that the template wrote are control tokens, stand-ins are ordinary text."""
        if not table:
            return self.stock(text)
        ids: list[int] = []
        for piece in re.split(f"([{''.join(table)}])", text):
            if piece in table:
                ids += self.plain(table[piece])
            elif piece:
                ids += self.stock(piece)
        return ids

    def stock(self, text: str) -> list[int]:
        """As `apply_chat_template` encodes a rendered text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def plain(self, text: str) -> list[int]:
        """The text as ordinary tokens, whatever it spells."""
        ids = list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        if not self.control_ids.isdisjoint(ids):  # added tokens that are not special: only letter by letter
            ids = [i for letter in text for i in self.tokenizer(letter, add_special_tokens=False)["input_ids"]]
        return ids


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Raw text as ordinary tokens, without a beginning or an end."""
    encoder = Encoder(tokenizer)
    table: dict[str, str] = {}
    return encoder.encode(encoder.protect(text, table), table)


def control_strings(tokenizer: Any) -> list[str]:
    """Every string that the tokenizer turns into one control token."""
    return [str(text) for text in {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}]


def stand_in(control: str, text: str, table: dict[str, str]) -> str:
    """The private letter that stands for a control string in this conversation."""
    for letter, meaning in table.items():
        if meaning == control:
            return letter
    letter = next(c for c in map(chr, STAND_INS) if c not in table and c not in text)
    table[letter] = control
    return letter


def restore(text: str, table: dict[str, str]) -> str:
    """The text with its control strings back."""
    for letter, control in table.items():
        text = text.replace(letter, control)
    return text
