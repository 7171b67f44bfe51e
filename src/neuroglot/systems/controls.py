"""Controls: a system that is shown less than it should be, to see what its answers rest on.

Notable: a control is a System like any other; it changes the examples on their way in and leaves references alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from neuroglot.data.example import Example, ImageSource
from neuroglot.errors import UserError
from neuroglot.systems.base import System

Images = tuple[ImageSource, ...]


class Control:
    """A system behind a change of what it is shown.

    Args:
        system: answers.
        note: what is changed; the name of the control is that of the system with this in brackets.
        change: what is done to each example; the target must stay.
    """

    def __init__(self, system: System, note: str, change: Callable[[Example], Example]) -> None:
        self.system = system
        self.name = f"{system.name} ({note})"
        self.change = change

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Translate the changed examples."""
        return self.system.translate([self.change(example) for example in examples])

    def nll(self, examples: Sequence[Example]) -> list[float] | None:
        """Return what the targets cost the system, in nats, when it sees the changed examples."""
        return self.system.nll([self.change(example) for example in examples])

    @property
    def batch_size(self) -> int:
        """That of the system; 0 where it has none."""
        return int(getattr(self.system, "batch_size", 0))

    def tokens(self, examples: Sequence[Example]) -> list[int] | None:
        """Return how many tokens the targets have, where the system counts them."""
        count = getattr(self.system, "tokens", None)
        return count(examples) if count is not None else None


def without_image(system: System) -> Control:
    """Show the text alone."""
    return Control(system, "no image", lambda example: replace(example, images=()))


def without_text(system: System) -> Control:
    """Show the image and the instruction, and no source."""
    return Control(system, "no text", lambda example: replace(example, source=""))


def shuffled_image(system: System, examples: Sequence[Example], seed: int = 0) -> Control:
    """Show every text beside another item's image: that of its other reading if there is one, else any other.

    Args:
        system: what answers.
        examples: those that will be scored; the images are exchanged among them.
        seed: of the images drawn.

    Raises:
        UserError: all examples have the same image.
    """
    shown = list(dict.fromkeys(example.images for example in examples))
    if len(shown) < 2:
        raise UserError(f"images cannot be exchanged among examples with {len(shown)} image; give at least two")
    by_source: dict[str | None, list[Example]] = {}
    for example in examples:
        by_source.setdefault(example.source, []).append(example)
    others: dict[tuple[str | None, Images], Images] = {}
    for example in examples:
        key = (example.source, example.images)  # the same in all pairs of an item
        if key not in others:
            rng = random.Random(f"{seed}:{example.source}:{example.item}")
            alike = [e for e in by_source[example.source] if e.images != example.images]
            reverse = list(dict.fromkeys(e.images for e in alike if e.target in example.alternatives))
            others[key] = rng.choice(reverse or [images for images in shown if images != example.images])
    return Control(system, "other image", lambda e: replace(e, images=others[e.source, e.images]))
