"""What asking came to: requests, tokens, money, and answers that are none."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REFUSAL = re.compile(
    r"^\W*(i['’]?m sorry|i am sorry|sorry,|i can(['’]t|not)|i['’]?m (unable|not able)|i am (unable|not able)|"
    r"unfortunately,? i|as an ai)\b",
    re.IGNORECASE,
)
"""How a refusal in words begins; a translation hardly ever does."""

KINDS = {
    "refused": "refused",
    "empty": "empty",
    "cut": "cut at max_tokens",
    "garbage": "no answer to be found in the reply",
}
"""What may be wrong with an answer, as it is said."""


MOST_TOKENS = 10**8
"""Of one reply; a server that says more does not know."""


@dataclass(frozen=True)
class Price:
    """Money for a million tokens of input and of output, and what it is counted in."""

    input: float = 0.0
    output: float = 0.0
    currency: str = "USD"

    def of(self, tokens: Mapping[str, int]) -> float:
        """Return what tokens cost."""
        return (self.input * tokens["input"] + self.output * tokens["output"]) / 1e6


def tokens_of(answer: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens that a reply says it took; 0 where it does not say."""
    usage = answer.get("usage") or {}
    names = {"input": "prompt_tokens", "output": "completion_tokens"}
    found = {side: usage.get(name) if isinstance(usage, Mapping) else None for side, name in names.items()}
    return {side: count if type(count) is int and 0 < count <= MOST_TOKENS else 0 for side, count in found.items()}


def text_of(answer: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return what a reply says, and what is wrong with it: a key of `KINDS`, or None.

    A refusal in words is still what the model said, and is scored as such; one by a filter is an empty answer. Half a
    surrogate pair, which JSON can hold and no file, becomes a replacement character.
    """
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        content, refusal, ended = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return "", "garbage"
    if isinstance(content, list):  # some servers answer in parts
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "".join(part for part in parts if isinstance(part, str))
    if content is not None and not isinstance(content, str):
        return "", "garbage"
    text = (content or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    if refusal or ended == "content_filter" or REFUSAL.match(text):
        return text, "refused"
    if not text:
        return "", "cut" if ended == "length" else "empty"
    return text, "cut" if ended == "length" else None


class Bill:
    """Counts, by several threads at once.

    Args:
        price: of tokens.
    """

    def __init__(self, price: Price | None) -> None:
        self.price = price
        self.tokens: Counter[str] = Counter()
        self.answers = self.kept = self.attempts = 0
        self.wrong: Counter[str] = Counter()
        self._lock = threading.Lock()

    def attempt(self) -> None:
        """Count a request sent."""
        with self._lock:
            self.attempts += 1

    def paid(self, answer: Mapping[str, Any]) -> None:
        """Count the tokens of a reply that came over the line."""
        with self._lock:
            self.tokens.update(tokens_of(answer))

    def answered(self, wrong: str | None, kept: bool) -> None:
        """Count an answer, and whether it was kept from before."""
        with self._lock:
            self.answers += 1
            self.kept += kept
            if wrong is not None:
                self.wrong[wrong] += 1

    @property
    def money(self) -> float | None:
        """What the requests of this run cost; None without a price."""
        return None if self.price is None else self.price.of({side: self.tokens[side] for side in ("input", "output")})

    def line(self, name: str) -> str:
        """Return it all as one line."""
        parts = [f"{self.answers} answers ({self.kept} kept from before)", f"{self.attempts} requests sent"]
        parts.append(f"{self.tokens['input']:,} + {self.tokens['output']:,} tokens")
        if self.price is not None:
            parts.append(f"{self.money:.4f} {self.price.currency}")
        parts += [f"{self.wrong[kind]} {said}" for kind, said in KINDS.items() if self.wrong[kind]]
        return f"{name}: {', '.join(parts)}"
