"""System: the one interface that evaluation knows; batching, language codes, decoding settings, and controls that are
shown less than they should be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, Protocol, runtime_checkable

from neuroglot.data.example import Example, ImageSource
from neuroglot.errors import UserError
from neuroglot.pair import Pair, language_code, script_of

# ---- Language codes of other programs -------------------------------------------------------------------------------

WITHIN = {"no": "nb", "ps": "pbt", "qu": "quy", "ff": "fuv", "din": "dik", "ak": "tw"}
"""Languages of which models often have one member only, under the code of either."""


def spelling(language: str, known: Collection[str]) -> str | None:
    """Return the code of a language among those that somebody else uses; None if it is not among them.

    The script must be the same: `zh_Hant` is not `zh`. A code of the same region comes first, then one of no region.

    Examples:
        >>> spelling("de", ["eng_Latn", "deu_Latn"]), spelling("cs", ["en_XX", "cs_CZ"]), spelling("zh_Hant", ["zh"])
        ('deu_Latn', 'cs_CZ', None)
    """
    if language in known or (parts := _parts(language)) is None:
        return language if language in known else None
    base, region, script = parts
    near = {base, WITHIN.get(base), *(whole for whole, member in WITHIN.items() if member == base)}
    fits = []
    for code in known:
        own = _parts(code)
        if own and own[0] in near and own[2] == script:
            fits.append((own[0] != base, own[1] != region, own[1] != "", code))
    return min(fits)[-1] if fits else None


@cache
def _parts(code: str) -> tuple[str, str, str] | None:
    """Return language, region and script of a code; None if it is not one of a language."""
    try:
        subtags = language_code(code).split("_")
    except UserError:
        return None
    region = next((part for part in subtags[1:] if len(part) in (2, 3)), "")
    return subtags[0], region, script_of("_".join(subtags))


# ---- Decoding settings ----------------------------------------------------------------------------------------------
# Notable: transformers fills whatever a call leaves open from `model.generation_config`, such as a repetition penalty,
# suppressed tokens or a least length, and not all of them have a value that says "none". So the configuration itself
# is exchanged while a model generates, and put back afterwards.

PROTOCOL = ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id")
"""What the model itself is made with, and no choice of whoever decodes."""

SEQ2SEQ = (*PROTOCOL, "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids")
"""The same of a translator with an encoder: languages are tokens that it is forced to begin with, and Marian's padding
is one that it must not say."""


@contextmanager
def own_settings(model: Any, keep: Collection[str] = PROTOCOL) -> Iterator[None]:
    """Let a model generate by what `generate` is told and by nothing else.

    Args:
        model: of transformers, or one of PEFT around it.
        keep: fields of the checkpoint's own generation_config that stay.
    """
    from transformers import GenerationConfig

    modules: list[Any] = list(getattr(model, "modules", list)())  # whatever has a `generate` may stand in for a model
    holders = [module for module in modules if "generation_config" in vars(module)]  # PEFT keeps one too
    theirs = [module.generation_config for module in holders]
    own = next((config for config in theirs if config is not None), GenerationConfig())
    kept = {name: value for name in keep if (value := getattr(own, name, None)) is not None}
    for module in holders:
        module.generation_config = GenerationConfig(**kept)
    try:
        yield
    finally:
        for module, config in zip(holders, theirs, strict=True):
            module.generation_config = config


# ---- System ---------------------------------------------------------------------------------------------------------

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

    A batch holds examples with the same number of images (none counts as a number too, so that no batch mixes
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


# ---- Controls -------------------------------------------------------------------------------------------------------
# Notable: a control is a System like any other; it changes the examples on their way in and leaves references alone.

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
