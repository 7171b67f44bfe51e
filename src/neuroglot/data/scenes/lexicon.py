"""English words with two right translations, of which a picture decides: the lexicon of the second task.

Four domains: a noun with two meanings, a person of either gender, a noun whose plural looks like its singular, and a
time of twelve hours. All forms are citation forms (nominative). A language in which both readings have one form
(German `Nagel` is the finger's and the hammer's, Turkish knows no gender) is not ambiguous and drops out by
comparison; None stands where no usual word fits, or where the embedded model lacks one of its letters.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from neuroglot.data.embedded.signs import LANGUAGES, Sign

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

_NUMBER: dict[str, tuple[str, Forms, Forms]] = {  # what is drawn, one, several
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
"""Of a twelve-hour clock: at five and six, sun and moon would not decide; the minutes are those of the signs."""

_HELD_OUT = frozenset({"key", "plant", "seal", "baker", "singer", "squid", "deer"})


@dataclass(frozen=True)
class Reading:
    """One way to take an ambiguous word.

    Attributes:
        name: tells it from the other.
        scene: the picture that shows it; other words may share it.
        forms: language -> the word in it, of the languages where the two readings differ.
    """

    name: str
    scene: str
    forms: Mapping[str, str]


@dataclass(frozen=True)
class Ambiguity:
    """An English word, or time, and its two readings.

    Attributes:
        word: as the source has it.
        domain: one of `DOMAINS`.
        readings: two, with forms in the same languages and no form in common.
        held_out: whether training never sees the word.
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
    found = [
        _ambiguity(word, "lexical", *((name, f"{word}:{name}", forms) for name, forms in readings.items()))
        for word, readings in _LEXICAL.items()
    ]
    found += [
        _ambiguity(word, "gender", ("man", "person:man", man), ("woman", "person:woman", woman))
        for word, (man, woman) in _GENDER.items()
    ]
    found += [
        _ambiguity(word, "number", ("one", f"{drawn}:one", one), ("several", f"{drawn}:several", several))
        for word, (drawn, one, several) in _NUMBER.items()
    ]
    return (*found, *(_time(hour, minute) for hour in HOURS for minute in MINUTES))


def _ambiguity(word: str, domain: str, *readings: tuple[str, str, Forms], held_out: bool | None = None) -> Ambiguity:
    (_, _, first), (_, _, second) = readings
    differing = [k for k, (a, b) in enumerate(zip(first, second, strict=True)) if a and b and a != b]
    made = [
        Reading(name, scene, {LANGUAGES[k]: unicodedata.normalize("NFC", str(forms[k])) for k in differing})
        for name, scene, forms in readings
    ]
    return Ambiguity(word, domain, (made[0], made[1]), word in _HELD_OUT if held_out is None else held_out)


def minutes(time: str) -> dict[str, int]:
    """Return the minutes that a time without AM or PM stands for: the sun means 7:00 to 16:59, the moon 19:00 to 4:59.

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
