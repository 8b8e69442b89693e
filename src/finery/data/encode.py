"""From rendered text to token ids, in which control strings that stand in somebody's text are ordinary tokens.

A user who writes `<|im_end|>` writes ten letters, not the end of a turn. So control strings in texts are replaced by stand-ins
before a template sees them, and put back here, encoded as ordinary tokens. Letters of the private use area, where stand-ins
come from, get stand-ins too, so that none is taken for another.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import pairwise
from typing import Any

STAND_INS = range(0xE000, 0xF8FF)  # Unicode's private use area
PRIVATE = "[\ue000-\uf8fe]"
ANCHOR = "\n"  # an ordinary text before a piece, so that no tokenizer takes the piece for the beginning of a text
KEPT_TAILS = 1000
LONGEST_TAIL = 200  # letters


class Encoder:
    """A tokenizer that knows its control strings. Of a conversation nothing is kept but how its shortest pieces are encoded."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        controls = sorted((text for text in control_strings(tokenizer) if text.strip()), key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, controls))) if controls else None
        self.replaced = re.compile("|".join([*map(re.escape, controls), PRIVATE]))
        self.control_ids = {tokenizer.convert_tokens_to_ids(text) for text in controls}
        self.tails: dict[str, list[int]] = {}

    # --- control strings in texts ------------------------------------------------------------------------------------------

    def protect(self, text: str, table: dict[str, str]) -> str:
        """`text` with stand-ins for its control strings; `table` (stand-in -> control string) grows."""
        return self.replaced.sub(lambda found: stand_in(found[0], table), text)

    def encode(self, text: str, table: dict[str, str], after: list[int] | None = None) -> list[int]:
        """Ids of a rendered text; markers that the template wrote are control tokens, stand-ins are ordinary text.

        `after`: the ids that it follows; not given: it stands at the beginning.
        """
        if not table and after is None:
            return self.stock(text)
        before = after or []
        controls = "".join(letter for letter, meaning in table.items() if not re.fullmatch(PRIVATE, meaning))
        ids: list[int] = []
        for piece in re.split(f"([{controls}])", text) if controls else [text]:
            if len(piece) == 1 and piece in controls:
                ids += self.following(before + ids, table[piece], ordinary=True)
            elif len(piece) == len(text) and after is None:
                ids = self.stock(restore(text, table))
            elif piece:
                ids += self.following(before + ids, restore(piece, table))
        return ids

    def stock(self, text: str) -> list[int]:
        """As `apply_chat_template` encodes a rendered text."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def following(self, before: list[int], text: str, ordinary: bool = False) -> list[int]:
        """Ids of a text after others: those of the text alone, but for the space that some tokenizers put before a text."""
        encode = self.plain if ordinary else self.stock
        alone = encode(text)
        if self.continues(before, alone, text):
            return alone
        anchor = self.stock(ANCHOR)
        anchored = encode(ANCHOR + text)
        if anchored[: len(anchor)] == anchor and self.continues(before, anchored[len(anchor) :], text):
            return anchored[len(anchor) :]
        return alone

    def continues(self, before: list[int], more: list[int], text: str) -> bool:
        """Whether `more` after the ids before it decodes to just this text."""
        near = before[-8:]
        return self.decode(near + more) == self.decode(near) + text

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def plain(self, text: str) -> list[int]:
        """The text as ordinary tokens, whatever it spells."""
        ids = list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])
        if self.control is None or self.control_ids.isdisjoint(ids):
            return ids
        found = self.control.search(text)  # an added token that is not special is found all the same: cut it after a letter
        if found is None or len(text) < 2:
            return ids
        head = self.plain(text[: found.start() + 1])
        return head + self.following(head, text[found.start() + 1 :], ordinary=True)

    # --- where answers begin and end ------------------------------------------------------------------------------------------

    def with_borders(self, text: str, borders: list[int]) -> tuple[list[int], list[int]] | None:
        """(ids of a text, how many of them lie before each border) where the text up to each border has just these ids.

        None where that can't be said. `borders` in letters, ascending. Control tokens cut a text into parts that are encoded
        each by itself, so the ids before a border are right if those from the last control token on are.
        """
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        found = self.tokenizer(text, add_special_tokens=False, verbose=False).encodings[0]
        ids, offsets = found.ids, found.offsets
        starts = [start for start, _ in offsets]
        counts = []
        for border in borders:
            count = bisect_left(starts, border)
            last = next((j for j in range(count - 1, -1, -1) if ids[j] in self.control_ids), 0)
            if self.tail(text[starts[last] if last else 0 : border]) != ids[last:count]:
                return None
            counts.append(count)
        return ids, counts

    def tail(self, text: str) -> list[int]:
        """Ids of a short text that comes again and again, such as the head of an answer."""
        if text in self.tails:
            return self.tails[text]
        ids = self.stock(text)
        if len(text) <= LONGEST_TAIL:
            if len(self.tails) >= KEPT_TAILS:
                self.tails.clear()
            self.tails[text] = ids
        return ids

    def token_ends(self, text: str) -> list[int]:
        """Where the text's tokens end, in letters; a letter of several tokens ends with its last one."""
        if not getattr(self.tokenizer, "is_fast", False):  # such a tokenizer does not tell: anywhere
            return list(range(1, len(text) + 1))
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        return [end for (_, end), (start, _) in pairwise([*offsets, (len(text), len(text))]) if end <= start]

    def pieces(self, text: str) -> list[str]:
        """The text cut between tokens: markers are whole."""
        return [text[a:b] for a, b in pairwise([0, *self.token_ends(text)])]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Raw text as ordinary tokens, without a beginning or an end."""
    encoder = Encoder(tokenizer)
    table: dict[str, str] = {}
    return encoder.encode(encoder.protect(text, table), table)


def control_strings(tokenizer: Any) -> list[str]:
    """Every string that the tokenizer turns into one control token."""
    return [str(text) for text in {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}]


def stand_in(replaced: str, table: dict[str, str]) -> str:
    """The private letter that stands for a control string, or for another such letter, in this conversation."""
    for letter, meaning in table.items():
        if meaning == replaced:
            return letter
    letter = next(c for c in map(chr, STAND_INS) if c not in table)
    table[letter] = replaced
    return letter


def restore(text: str, table: dict[str, str]) -> str:
    """The text with what stand-ins stand for back in its place."""
    return re.sub(f"[{''.join(table)}]", lambda found: table[found[0]], text) if table else text
