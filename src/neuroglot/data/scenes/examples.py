"""The second task: a sentence with an ambiguous word, and a picture that decides how it is translated.

A sentence is a word of the lexicon beside a phrase of the embedded signs, "bat: 12 euros", or a sign that holds a
time, "Latvia: 6:30". Neither text nor picture alone gives the answer, by construction: every sentence occurs in its
split with both readings, each on its picture; and every picture of a scored split serves two sentences. The splits
share no sentence (their signs are of the signs' own splits) and no picture; `heldout` is of words and times that
training never sees.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from neuroglot.data.embedded.signs import LANGUAGES, MAX_SOURCE, MAX_TARGET, TEMPLATES, Sign, signs
from neuroglot.data.example import Example, RenderSpec, split_seed
from neuroglot.data.scenes.lexicon import Ambiguity, ambiguities, minutes
from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair

TASK = "multimodal_translation"

TURN = ("time", "lexical", "gender", "number")
"""The domains, in the order in which words are taken from them; the first has every language."""

PHRASES = ("date", "skeleton", "time", "price", "unit")
FRAMES = ("{word}: {phrase}", "{word} ({phrase})")
"""Templates of the signs that stand beside a word, and how."""

TIMED = ("label", "daytime")
"""Templates of the signs that hold a time: "Latvia: 6:30", "Monday, 6:30"."""

FEWEST_PHRASES = 120


@dataclass(frozen=True)
class Sentence:
    """A source with an ambiguous word, and what it means: reading -> language -> text."""

    ambiguity: Ambiguity
    source: str
    texts: Mapping[str, Mapping[str, str]]

    @property
    def fits(self) -> bool:
        """Whether no text is longer than those of the signs."""
        longest = max(len(text) for by_language in self.texts.values() for text in by_language.values())
        return len(self.source) <= MAX_SOURCE and longest <= MAX_TARGET

    def differs(self, other: Sentence) -> bool:
        """Whether the translations differ in every language: "Sep 27" and "September 27" may not."""
        return all(
            text != other.texts[reading][language]
            for reading, by_language in self.texts.items()
            for language, text in by_language.items()
        )


def sentences(split: str, words: int, seed: int, domains: Sequence[str] = TURN) -> list[Sentence]:
    """Return a sentence for each of so many words in turn, and then another for each; none occurs twice.

    Raises:
        UserError: more are asked for than the phrases make, or a domain is not known.
    """
    for domain in domains:
        if domain not in TURN:
            raise UserError(f"data.domains: {domain!r} is not known; {nearest(domain, TURN)}")
    rng = random.Random(f"scenes:{split}:{seed}")
    # Held-out words stand in phrases of the kinds that training knows: the word alone is new.
    phrases = "test" if split == "heldout" else split
    pool = [sign for sign in signs(phrases, max(FEWEST_PHRASES, 2 * words), seed) if sign.template in PHRASES]
    turns = {domain: _in_turn(domain, split == "heldout", rng) for domain in TURN if domain in domains}
    seen: set[str] = set()
    found: list[list[Sentence]] = []
    for _, domain in zip(range(words), cycle(turns), strict=False):
        word = next(turns[domain])
        drawn = _timed(word, phrases, rng) if domain == "time" else _phrased(word, pool, rng)
        fitting = (sentence for sentence in drawn if sentence.fits and sentence.source not in seen)
        first = next(fitting, None)
        second = next((sentence for sentence in fitting if first and sentence.differs(first)), None)
        if first is None or second is None:
            raise UserError(f"the embedded scenes hold fewer than {4 * words} {split} items; ask for fewer")
        seen |= {first.source, second.source}
        found.append([first, second])
    return [sentence for again in zip(*found, strict=True) for sentence in again]


def _in_turn(domain: str, held_out: bool, rng: random.Random) -> Iterator[Ambiguity]:
    words = [a for a in ambiguities() if a.domain == domain and a.held_out == held_out]
    rng.shuffle(words)
    return cycle(words)


def _phrased(word: Ambiguity, pool: Sequence[Sign], rng: random.Random) -> Iterator[Sentence]:
    """Yield sentences of a word and a phrase, the phrases in a random order."""
    for phrase in rng.sample(pool, len(pool)):
        frame = rng.choice(FRAMES)
        texts = {
            reading.name: {
                code: frame.format(word=form, phrase=phrase.text(code)) for code, form in reading.forms.items()
            }
            for reading in word.readings
        }
        yield Sentence(word, frame.format(word=word.word, phrase=phrase.text("en")), texts)


def _timed(word: Ambiguity, split: str, rng: random.Random) -> Iterator[Sentence]:
    """Yield signs that hold a time, without the AM or PM that the picture stands for."""
    for _ in range(10_000):
        template = rng.choice(TIMED)
        beside, _ = TEMPLATES[template].draw(rng)
        meant = {name: Sign(template, (beside, value)) for name, value in minutes(word.word).items()}
        if meant["day"].split == split:  # one sign, hence one split, for each source text
            texts = {name: {code: sign.text(code) for code in LANGUAGES} for name, sign in meant.items()}
            yield Sentence(word, meant["day"].text("en").rpartition(" ")[0], texts)


def scene_examples(
    split: str,
    items: int,
    pairs: Sequence[Pair],
    seed: int,
    one_image: bool = True,
    domains: Sequence[str] = TURN,
) -> list[Example]:
    """Return examples of a split.

    Args:
        split: `train`, `dev`, `test` or `heldout`.
        items: sentences x readings; made up to a multiple of four.
        pairs: from English into some of the six languages; an item is left out of a pair in which it is not ambiguous.
        seed: of sentences and pictures.
        one_image: whether two sentences and all pairs share a picture; otherwise every example has its own.
        domains: of ambiguity; words are taken from them in turn.

    Raises:
        UserError: a pair or a domain that the lexicon has not.
    """
    for pair in pairs:
        if pair.source != "en" or pair.target not in LANGUAGES:
            known = ", ".join(f"en-{language}" for language in LANGUAGES)
            raise UserError(f"the embedded scenes have no pair {pair}; they have {known}")
    words = -(-items // 4)
    examples: list[Example] = []
    for number, sentence in enumerate(sentences(split, words, seed, domains)):
        first, second = sentence.ambiguity.readings
        for reading, other in ((first, second), (second, first)):
            for pair in (p for p in pairs if p.target in sentence.ambiguity.languages):
                index = number % words if one_image else 1_000_000 + len(examples)
                examples.append(
                    Example(
                        images=(RenderSpec(reading.scene, split_seed(split, seed), index, "scene"),),
                        source=sentence.source,
                        target=sentence.texts[reading.name][pair.target],
                        source_lang=pair.source,
                        target_lang=pair.target,
                        task=TASK,
                        alternatives=(sentence.texts[other.name][pair.target],),
                        item=f"{split}-{number}-{reading.name}",
                        meta={"domain": sentence.ambiguity.domain, "reading": reading.name},
                    )
                )
    return examples


def text_only_ceiling(examples: Sequence[Example]) -> float:
    """Most that a system can reach in exact match (percent, mean over pairs) if it sees the source text alone."""
    return _ceiling(examples, lambda example: example.source)


def image_only_ceiling(examples: Sequence[Example]) -> float:
    """Most that a system can reach in exact match (percent, mean over pairs) if it sees the images alone."""
    return _ceiling(examples, lambda example: example.images)


def _ceiling(examples: Sequence[Example], seen: Callable[[Example], Hashable]) -> float:
    """Whoever sees the same gives the same answer: at best, each time the most frequent reference."""
    answers: dict[Pair, dict[Hashable, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for example in examples:
        answers[example.pair][seen(example)][example.target] += 1
    shares = [
        sum(max(targets.values()) for targets in by_key.values()) / sum(t.total() for t in by_key.values())
        for by_key in answers.values()
    ]
    return 100.0 * sum(shares) / len(shares)
