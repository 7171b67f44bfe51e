"""System: the one interface that evaluation knows; and the batching that every batched system shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.pair import Pair

Progress = Callable[[int], None]
"""Called with the number of examples finished since the last call; the `advance` of a progress bar fits."""


@runtime_checkable
class System(Protocol):
    """Something that turns examples into text: a model, a chain of models, a remote service.

    Both methods answer in the order of the examples and leave the examples' `target` unread, except that `nll`
    scores it.

    A system may have more, which evaluation uses where it is: `batch_size`, and `tokens(examples)`, how many tokens
    the nats of each target are of, by which a contrastive score compares perplexities instead of likelihoods. A
    chain has `transcriptions(examples)`, what was read in the images of each, for the file of hypotheses. A
    translator that refuses some texts may have `readable(example)`, which gives back what it would take of one.
    """

    name: str

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Return one string per example: its translation, transcription or description, by its task."""
        ...

    def nll(self, examples: Sequence[Example]) -> list[float] | None:
        """Return the teacher-forced negative log-likelihood of each target, in nats, end of sequence included.

        None means that the system has no likelihood.
        """
        ...


def check(system: System, pair: Pair) -> None:
    """Let a system refuse a direction that it does not know, before anything is asked of it; most know them all.

    Raises:
        UserError: it refuses.
    """
    if hasattr(system, "check"):
        system.check(pair)


def close(system: System) -> None:
    """Let a system give back what it holds, a model's memory or connections, and say what it came to."""
    if hasattr(system, "close"):
        system.close()


def length_sorted_batches(examples: Sequence[Example], batch_size: int) -> list[list[int]]:
    """Group examples into batches that waste little padding; returns indices into `examples`.

    A batch holds examples with the same number of images (none is a kind of its own, so that no batch mixes
    text-only and image inputs). Within a kind the longest come first: running out of memory then shows at once.
    The length is that of the target where a reference is known, else of the source; it decides nothing but the
    order of work. Equal lengths stay in their given order.

    Raises:
        UserError: `batch_size` is not a positive number.

    Examples:
        >>> texts = [Example((), "a", target, "en", "de", "text_translation") for target in ("ab", "abcd", "abc")]
        >>> length_sorted_batches(texts, 2)
        [[1, 2], [0]]
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size!r}")
    kinds: dict[int, list[int]] = {}
    for index, example in enumerate(examples):
        kinds.setdefault(len(example.images), []).append(index)
    batches = []
    for _, members in sorted(kinds.items()):
        members.sort(key=lambda index: -len(examples[index].target or examples[index].source or ""))
        batches += [members[start : start + batch_size] for start in range(0, len(members), batch_size)]
    return batches
