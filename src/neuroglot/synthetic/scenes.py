"""Scenes: a sentence with an ambiguous word, and a picture that decides its translation."""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle

from PIL import Image, ImageDraw

from neuroglot.data.example import Example, RenderSpec, split_seed
from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair
from neuroglot.synthetic.pictograms import PICTOGRAMS, Box
from neuroglot.synthetic.pictures import OBJECTS, Point
from neuroglot.synthetic.signs import LANGUAGES, MAX_SOURCE, MAX_TARGET, TEMPLATES, Sign, signs
from neuroglot.synthetic.style import SIZE

# ---- Lexicon: English words with two translations -------------------------------------------------------------------
# Four domains: a noun with two meanings, a person of either gender, a noun whose plural looks like its singular, and a
# time of twelve hours. All forms are citation forms (nominative). A language in which both readings have one form
# (German `Nagel` is the finger's and the hammer's, Turkish has no gender) is not ambiguous and is left out by
# comparison; None means that no usual word fits, or that the embedded model lacks one of its letters.

DOMAINS = ("lexical", "gender", "number", "time")

Forms = tuple[str | None, ...]
"""A word in fr, cs, de, lv, hi, tr: the order of `LANGUAGES`."""

_LEXICAL: dict[str, dict[str, Forms]] = {
    "bank": {"river": ("rive", "břeh", "Ufer", "krasts", "किनारा", "kıyı"),
             "money": ("banque", "banka", "Bank", "banka", "बैंक", "banka")},
    "bat": {"animal": ("chauve-souris", "netopýr", "Fledermaus", "sikspārnis", "चमगादड़", "yarasa"),
            "club": ("batte", "pálka", "Schläger", None, "बल्ला", None)},
    "bow": {"ribbon": ("nœud", "mašle", "Schleife", "bante", None, "fiyonk"),
            "archery": ("arc", "luk", "Bogen", "loks", "धनुष", "yay")},
    "crane": {"bird": ("grue", "jeřáb", "Kranich", "dzērve", "सारस", "turna"),
              "machine": ("grue", "jeřáb", "Kran", "celtnis", "क्रेन", "vinç")},
    "date": {"fruit": ("datte", "datle", "Dattel", "datele", "खजूर", "hurma"),
             "calendar": ("date", "datum", "Datum", "datums", "तारीख", "tarih")},
    "glasses": {"spectacles": ("lunettes", "brýle", "Brille", "brilles", "चश्मा", "gözlük"),
                "tumblers": ("verres", "sklenice", "Gläser", "glāzes", "गिलास", "bardaklar")},
    "key": {"door": ("clé", "klíč", "Schlüssel", "atslēga", "चाबी", "anahtar"),
            "keyboard": ("touche", "klávesa", "Taste", "taustiņš", "कुंजी", "tuş")},
    "letter": {"mail": ("lettre", "dopis", "Brief", "vēstule", "पत्र", "mektup"),
               "character": ("lettre", "písmeno", "Buchstabe", "burts", "अक्षर", "harf")},
    "match": {"stick": ("allumette", "zápalka", "Streichholz", "sērkociņš", "तीली", "kibrit"),
              "game": ("match", "zápas", "Spiel", "spēle", "मैच", "maç")},
    "nail": {"finger": ("ongle", "nehet", "Nagel", "nags", "नाखून", "tırnak"),
             "metal": ("clou", "hřebík", "Nagel", "nagla", "कील", "çivi")},
    "palm": {"tree": ("palmier", "palma", "Palme", "palma", "ताड़", "palmiye"),
             "hand": ("paume", "dlaň", "Handfläche", "delna", "हथेली", "avuç")},
    "plant": {"leaves": ("plante", "rostlina", "Pflanze", "augs", None, "bitki"),
              "factory": ("usine", "továrna", "Fabrik", "rūpnīca", "कारखाना", "fabrika")},
    "ruler": {"measure": ("règle", "pravítko", "Lineal", "lineāls", "पैमाना", "cetvel"),
              "crown": ("souverain", "vládce", "Herrscher", "valdnieks", "शासक", "hükümdar")},
    "seal": {"animal": ("phoque", "tuleň", "Robbe", "ronis", "सील", "fok"),
             "wax": ("sceau", "pečeť", "Siegel", "zīmogs", "मुहर", "mühür")},
    "spring": {"season": ("printemps", "jaro", "Frühling", "pavasaris", "वसंत", "ilkbahar"),
               "coil": ("ressort", "pružina", "Feder", "atspere", "स्प्रिंग", "yay")},
    "table": {"furniture": ("table", "stůl", "Tisch", "galds", "मेज", "masa"),
              "chart": ("tableau", "tabulka", "Tabelle", "tabula", "तालिका", "tablo")},
}  # fmt: skip

_GENDER: dict[str, tuple[Forms, Forms]] = {
    "baker": (("boulanger", "pekař", "Bäcker", "maiznieks", None, None),
              ("boulangère", "pekařka", "Bäckerin", "maizniece", None, None)),
    "cook": (("cuisinier", "kuchař", "Koch", "pavārs", None, None),
             ("cuisinière", "kuchařka", "Köchin", "pavāre", None, None)),
    "dancer": (("danseur", "tanečník", "Tänzer", "dejotājs", "नर्तक", None),
               ("danseuse", "tanečnice", "Tänzerin", "dejotāja", "नर्तकी", None)),
    "doctor": ((None, "lékař", "Arzt", "ārsts", None, None),
               (None, "lékařka", "Ärztin", "ārste", None, None)),
    "farmer": (("agriculteur", "zemědělec", "Bauer", "zemnieks", "किसान", None),
               ("agricultrice", "zemědělkyně", "Bäuerin", "zemniece", "किसान", None)),
    "friend": (("ami", "přítel", "Freund", "draugs", None, "arkadaş"),
               ("amie", "přítelkyně", "Freundin", "draudzene", None, "arkadaş")),
    "neighbour": (("voisin", "soused", "Nachbar", "kaimiņš", "पड़ोसी", "komşu"),
                  ("voisine", "sousedka", "Nachbarin", "kaimiņiene", "पड़ोसन", "komşu")),
    "seller": (("vendeur", "prodavač", "Verkäufer", "pārdevējs", None, None),
               ("vendeuse", "prodavačka", "Verkäuferin", "pārdevēja", None, None)),
    "singer": (("chanteur", "zpěvák", "Sänger", "dziedātājs", "गायक", None),
               ("chanteuse", "zpěvačka", "Sängerin", "dziedātāja", "गायिका", None)),
    "student": (("étudiant", "student", "Student", "students", None, "öğrenci"),
                ("étudiante", "studentka", "Studentin", "studente", None, "öğrenci")),
    "teacher": (("enseignant", "učitel", "Lehrer", "skolotājs", "अध्यापक", "öğretmen"),
                ("enseignante", "učitelka", "Lehrerin", "skolotāja", "अध्यापिका", "öğretmen")),
    "writer": (("écrivain", "spisovatel", "Schriftsteller", "rakstnieks", "लेखक", "yazar"),
               ("écrivaine", "spisovatelka", "Schriftstellerin", "rakstniece", "लेखिका", "yazar")),
}  # fmt: skip

_NUMBER: dict[str, tuple[str, Forms, Forms]] = {  # picture, one, several
    "aircraft": ("aircraft", ("avion", "letadlo", "Flugzeug", "lidmašīna", "विमान", "uçak"),
                 ("avions", "letadla", "Flugzeuge", "lidmašīnas", "विमान", "uçaklar")),
    "bison": ("bison", ("bison", "bizon", "Bison", "bizons", None, "bizon"),
              ("bisons", "bizoni", "Bisons", "bizoni", None, "bizonlar")),
    "deer": ("deer", ("cerf", "jelen", "Hirsch", "briedis", "हिरण", "geyik"),
             ("cerfs", "jeleni", "Hirsche", "brieži", "हिरण", "geyikler")),
    "fish": ("fish", ("poisson", "ryba", "Fisch", "zivs", None, "balık"),
             ("poissons", "ryby", "Fische", "zivis", None, "balıklar")),
    "salmon": ("fish", ("saumon", "losos", "Lachs", "lasis", None, "somon"),
               ("saumons", "lososi", "Lachse", "laši", None, "somonlar")),
    "sheep": ("sheep", ("mouton", "ovce", "Schaf", "aita", "भेड़", "koyun"),
              ("moutons", "ovce", "Schafe", "aitas", "भेड़ें", "koyunlar")),
    "squid": ("squid", ("calmar", "oliheň", "Kalmar", "kalmārs", None, "kalamar"),
              ("calmars", "olihně", "Kalmare", "kalmāri", None, "kalamarlar")),
    "trout": ("fish", ("truite", "pstruh", "Forelle", "forele", None, "alabalık"),
              ("truites", "pstruzi", "Forellen", "foreles", None, "alabalıklar")),
}  # fmt: skip

HOURS, MINUTES = (12, 1, 2, 3, 4, 7, 8, 9, 10, 11), (0, 15, 30, 45)
"""Hours of a twelve-hour clock: at five and six, sun and moon would not decide; minutes are those of the signs."""

_HELD_OUT = frozenset({"key", "plant", "seal", "baker", "singer", "squid", "deer"})


@dataclass(frozen=True)
class Reading:
    """One meaning of an ambiguous word.

    Attributes:
        name: different for the two readings.
        scene: the picture that shows it; other words may share it.
        forms: language -> the word in it, for the languages where the two readings differ.
    """

    name: str
    scene: str
    forms: Mapping[str, str]


@dataclass(frozen=True)
class Ambiguity:
    """An English word, or time, and its two readings.

    Attributes:
        word: the word in the source.
        domain: one of `DOMAINS`.
        readings: two, with forms in the same languages and no form in common.
        held_out: whether training never uses the word.
    """

    word: str
    domain: str
    readings: tuple[Reading, Reading]
    held_out: bool

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages in which the two readings differ."""
        return tuple(self.readings[0].forms)


@cache
def ambiguities() -> tuple[Ambiguity, ...]:
    """Return every ambiguous word, domain by domain."""
    words = [
        _ambiguity(word, "lexical", *((name, f"{word}:{name}", forms) for name, forms in readings.items()))
        for word, readings in _LEXICAL.items()
    ]
    words += [
        _ambiguity(word, "gender", ("man", "person:man", man), ("woman", "person:woman", woman))
        for word, (man, woman) in _GENDER.items()
    ]
    words += [
        _ambiguity(word, "number", ("one", f"{drawn}:one", one), ("several", f"{drawn}:several", several))
        for word, (drawn, one, several) in _NUMBER.items()
    ]
    return (*words, *(_time(hour, minute) for hour in HOURS for minute in MINUTES))


def _ambiguity(word: str, domain: str, *readings: tuple[str, str, Forms], held_out: bool | None = None) -> Ambiguity:
    (_, _, first), (_, _, second) = readings
    differing = [k for k, (a, b) in enumerate(zip(first, second, strict=True)) if a and b and a != b]
    both = [
        Reading(name, scene, {LANGUAGES[k]: unicodedata.normalize("NFC", str(forms[k])) for k in differing})
        for name, scene, forms in readings
    ]
    return Ambiguity(word, domain, (both[0], both[1]), word in _HELD_OUT if held_out is None else held_out)


def minutes(time: str) -> dict[str, int]:
    """Return the minutes of day that a time without AM or PM means: with sun 7:00 to 16:59, with moon 19:00 to 4:59.

    Examples:
        >>> minutes("9:30")
        {'day': 570, 'night': 1290}
    """
    hour, minute = map(int, time.split(":"))
    morning, afternoon = 60 * (hour % 12) + minute, 60 * (hour % 12 + 12) + minute
    day, night = (morning, afternoon) if 7 <= hour < 12 else (afternoon, morning)
    return {"day": day, "night": night}


def _time(hour: int, minute: int) -> Ambiguity:
    word = f"{hour}:{minute:02}"
    written = [
        (name, f"sky:{name}", tuple(Sign("time", (value,)).text(language) for language in LANGUAGES))
        for name, value in minutes(word).items()
    ]
    return _ambiguity(word, "time", *written, held_out=hashlib.sha256(word.encode()).digest()[0] < 51)


# ---- Drawing a scene ------------------------------------------------------------------------------------------------

SEVERAL = (2, 3, 4)
BYSTANDERS = ("square", "triangle", "heart", "arrow")
"""Shapes that no reading uses."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Pen:
    """A `pictograms.Pen`: maps the unit square to a square of the canvas (pixels)."""

    canvas: ImageDraw.ImageDraw
    left: float
    top: float
    extent: float
    ink: Colour
    paper: Colour

    def __call__(self, shape: str, points: Sequence[Point] | Box) -> None:
        if shape == "polygon":
            self.fill(*points)
        else:
            self.oval(*points)

    def fill(self, *points: Point, hole: bool = False) -> None:
        self.canvas.polygon([self._at(p) for p in points], fill=self.paper if hole else self.ink)

    def oval(self, left: float, top: float, right: float, bottom: float, hole: bool = False) -> None:
        self.canvas.ellipse([self._at((left, top)), self._at((right, bottom))], fill=self.paper if hole else self.ink)

    def stroke(self, *points: Point, width: float = 0.08, hole: bool = False) -> None:
        colour = self.paper if hole else self.ink
        self.canvas.line([self._at(p) for p in points], fill=colour, width=max(1, round(width * self.extent)))
        for x, y in points:  # round ends and corners
            self.oval(x - width / 2, y - width / 2, x + width / 2, y + width / 2, hole=hole)

    def _at(self, point: Point) -> Point:
        return self.left + point[0] * self.extent, self.top + point[1] * self.extent


def draw_scene(text: str, seed: int, index: int, width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Draw a scene; colours, positions, sizes and bystanders depend on (seed, index).

    Args:
        text: a pictogram's name (`bat:animal`), or a thing and its number (`sheep:one`, `sheep:several`).
        seed: corpus seed.
        index: index in the corpus.
        width: image width in pixels.
        height: image height in pixels.

    Raises:
        UserError: the text names no scene.
    """
    thing, _, number = text.partition(":")
    counted = thing in PICTOGRAMS and number in ("one", "several")
    if not counted and (text not in PICTOGRAMS or not number):
        known = [name for k in PICTOGRAMS for name in ([k] if ":" in k else [f"{k}:one", f"{k}:several"])]
        raise UserError(f"{text!r} names no scene; {nearest(text, known)}")
    rng = random.Random(f"scene:{seed}:{index}")
    paper = _colour(rng)
    image = Image.new("RGB", (2 * width, 2 * height), paper)  # drawn at twice the size, so that edges are smooth
    canvas = ImageDraw.Draw(image)
    side = 2 * min(width, height)
    ink = _colour(rng, paper)
    taken: list[Box] = []
    count = rng.choice(SEVERAL) if number == "several" else 1
    # A single thing may be as small as one of several, so that only the number decides.
    smallest, largest = (0.34, 0.44) if count > 1 else (0.36, 0.7) if counted else (0.66, 0.84)
    for _ in range(count):
        left, top, extent = _place(rng, taken, rng.uniform(smallest, largest) * side, 2 * width, 2 * height)
        PICTOGRAMS[thing if counted else text](_Pen(canvas, left, top, extent, ink, paper))
    for _ in range(rng.choice((1, 2))):
        left, top, extent = _place(rng, taken, rng.uniform(0.1, 0.16) * side, 2 * width, 2 * height)
        OBJECTS[rng.choice(BYSTANDERS)][1](_Pen(canvas, left, top, extent, _colour(rng, paper), paper))
    return image.resize((width, height), Image.Resampling.BOX)


def _colour(rng: random.Random, other: Colour | None = None) -> Colour:
    """Draw a colour that clearly differs from another."""
    while True:
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        if other is None or sum(abs(a - b) for a, b in zip(colour, other, strict=True)) > 300:
            return colour


def _place(rng: random.Random, taken: list[Box], extent: float, width: int, height: int) -> tuple[float, float, float]:
    """Find a free square, shrinking it while there is none; returns left, top and extent in pixels."""
    while True:
        for _ in range(60):
            left, top = rng.uniform(0, width - extent), rng.uniform(0, height - extent)
            if all(left > r or left + extent < x or top > b or top + extent < y for x, y, r, b in taken):
                taken.append((left, top, left + extent, top + extent))
                return left, top, extent
        extent *= 0.9


# ---- Examples -------------------------------------------------------------------------------------------------------
# A sentence is a word of the lexicon beside a phrase of the embedded signs, "bat: 12 euros", or a sign with a time,
# "Latvia: 6:30". By construction neither text nor picture alone gives the answer: every sentence occurs in its split
# with both readings, each with its picture; and every picture of a scored split is used for two sentences. The splits
# share no sentence (their signs are from the signs' splits) and no picture; `heldout` has words and times that
# training never uses.

TASK = "multimodal_translation"

TURN = ("time", "lexical", "gender", "number")
"""The domains, in the order in which words are taken from them; the first has every language."""

PHRASES = ("date", "skeleton", "time", "price", "unit")
FRAMES = ("{word}: {phrase}", "{word} ({phrase})")
"""Sign templates of the phrases, and the frames that join a word and a phrase."""

TIMED = ("label", "daytime")
"""Templates of the signs with a time: "Latvia: 6:30", "Monday, 6:30"."""

FEWEST_PHRASES = 120


@dataclass(frozen=True)
class Sentence:
    """A source with an ambiguous word, and its translations: reading -> language -> text."""

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
    """Return a sentence for each of `words` words in turn, then a second one for each; none occurs twice.

    Raises:
        UserError: more sentences than the phrases can make, or an unknown domain.
    """
    for domain in domains:
        if domain not in TURN:
            raise UserError(f"data.domains: {domain!r} is not known; {nearest(domain, TURN)}")
    rng = random.Random(f"scenes:{split}:{seed}")
    # Held-out words are in phrases of the kinds that training uses: only the word is new.
    phrases = "test" if split == "heldout" else split
    pool = [sign for sign in signs(phrases, max(FEWEST_PHRASES, 2 * words), seed) if sign.template in PHRASES]
    turns = {domain: _in_turn(domain, split == "heldout", rng) for domain in TURN if domain in domains}
    seen: set[str] = set()
    pairs_of_sentences: list[list[Sentence]] = []
    for _, domain in zip(range(words), cycle(turns), strict=False):
        word = next(turns[domain])
        drawn = _timed(word, phrases, rng) if domain == "time" else _phrased(word, pool, rng)
        fitting = (sentence for sentence in drawn if sentence.fits and sentence.source not in seen)
        first = next(fitting, None)
        second = next((sentence for sentence in fitting if first and sentence.differs(first)), None)
        if first is None or second is None:
            raise UserError(f"the embedded scenes hold fewer than {4 * words} {split} items; ask for fewer")
        seen |= {first.source, second.source}
        pairs_of_sentences.append([first, second])
    return [sentence for again in zip(*pairs_of_sentences, strict=True) for sentence in again]


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
    """Yield signs with a time, without AM or PM, which the picture shows."""
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
        items: sentences x readings; rounded up to a multiple of four.
        pairs: from English into some of the six languages; a pair has only the items that are ambiguous in it.
        seed: seed of sentences and pictures.
        one_image: whether two sentences and all pairs share a picture; otherwise every example has another one.
        domains: domains of ambiguity; words are taken from them in turn.

    Raises:
        UserError: a pair or a domain that the lexicon does not have.
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
    """Return the highest exact match (percent, mean over pairs) of a system that sees only the source text."""
    return _ceiling(examples, lambda example: example.source)


def image_only_ceiling(examples: Sequence[Example]) -> float:
    """Return the highest exact match (percent, mean over pairs) of a system that sees only the images."""
    return _ceiling(examples, lambda example: example.images)


def _ceiling(examples: Sequence[Example], seen: Callable[[Example], Hashable]) -> float:
    """Return the ceiling: equal inputs get equal answers, at best the most frequent reference of each."""
    answers: dict[Pair, dict[Hashable, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for example in examples:
        answers[example.pair][seen(example)][example.target] += 1
    shares = [
        sum(max(targets.values()) for targets in by_key.values()) / sum(t.total() for t in by_key.values())
        for by_key in answers.values()
    ]
    return 100.0 * sum(shares) / len(shares)
