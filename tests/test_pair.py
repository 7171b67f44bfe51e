"""Text forms of pairs and conditions, and codes of languages as people write them."""

from __future__ import annotations

import pytest
from babel import Locale
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB

from neuroglot.errors import UserError
from neuroglot.pair import TASKS, Condition, Pair, language_code, language_name, script_of

MANY_SCRIPTS = ("ace", "bjn", "crh", "kas", "knc", "sat", "taq", "tzm", "zho")
"""Languages that NLLB has in another script than the one that CLDR takes for the usual one."""


@pytest.mark.parametrize(
    ("written", "code"),
    [("de", "de"), ("DE", "de"), (" fr ", "fr"), ("zh-Hans", "zh_Hans"), ("ZH_hans", "zh_Hans"), ("pt-BR", "pt_BR"),
     ("pt_br", "pt_BR"), ("zh-hant-tw", "zh_Hant_TW"), ("es-419", "es_419"), ("haw", "haw"), ("tlh", "tlh"),
     ("sr-Latn", "sr_Latn")],
)  # fmt: skip
def test_codes_in_this_projects_spelling(written, code):
    assert language_code(written) == code
    assert language_code(code) == code, "idempotent"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("german", "language code 'german' is malformed; .*; did you mean de?"),
        ("German", "did you mean de?"),
        ("geramn", "did you mean de?"),
        ("Brazilian Portuguese", "did you mean pt_BR?"),
        ("simplified chinese", "did you mean zh_Hans?"),
        ("", "language code '' is malformed; expected a BCP 47 code such as de, pt_BR or zh_Hans"),
        ("d", "malformed"),
        ("de!", "malformed"),
        ("de_Latn_DE_x", "malformed"),
        ("xx", "language code 'xx' is not known"),
        ("zh_Hanz", "language code 'zh_Hanz' is not known"),
        ("de_QX", "not known"),
    ],
)
def test_wrong_codes(written, message):
    with pytest.raises(UserError, match=message) as caught:
        language_code(written)
    assert "\n" not in str(caught.value)


def test_the_english_name_of_every_language_leads_to_its_code():
    names = {code: name for code, name in Locale("en").languages.items() if len(code) == 2}
    for code, name in names.items():
        if len(name) > 3 and "_" not in code:
            with pytest.raises(UserError, match="did you mean"):
                language_code(name)


def test_names():
    assert language_name("de") == "German"
    assert language_name("de", "de") == "Deutsch"
    assert language_name("pt_BR") == "Portuguese (Brazil)"
    assert language_name("zh_Hans") == "Chinese (Simplified)"
    assert language_name("tlh") == "Klingon", "a language of which CLDR has no more than the name"


def test_every_known_language_has_a_name():
    for code in Locale("en").languages:
        if code.count("_") < 2:
            assert language_name(language_code(code)) != code or code == language_name(code)


def test_the_script_of_every_code_of_nllb():
    for code in NLLB:
        language, script = code.split("_")
        assert script_of(code) == script
        if language not in ("ajp", *MANY_SCRIPTS):  # what ajp is written in, CLDR does not say
            assert script_of(language) == script.replace("Hang", "Kore"), code
    assert [script_of(code) for code in ("zh-TW", "zh", "zh_yue", "uz_AF", "ajp", "und")] == [
        "Hant", "Hans", "Hant", "Arab", "", ""]  # fmt: skip
    with pytest.raises(UserError, match="malformed"):
        script_of("de!")


def test_pairs():
    pair = Pair.parse("en-de")
    assert (pair.source, pair.target, str(pair)) == ("en", "de", "en-de")
    assert Pair.parse("EN-zh_hans") == Pair("en", "zh_Hans")
    assert str(Pair.parse("pt_BR-en")) == "pt_BR-en"
    assert str(Pair.parse("en-en")) == "en-en", "transcribing"
    assert Pair.parse(str(pair)) == pair
    assert len({Pair("en", "de"), Pair.parse("en-de"), Pair("de", "en")}) == 2
    assert sorted([Pair("en", "fr"), Pair("de", "fr"), Pair("en", "de")])[0] == Pair("de", "fr")


@pytest.mark.parametrize("text", ["en", "en-", "-de", "", "en_de", "en-zh-Hans", "en-de-fr", "en--de"])
def test_malformed_pairs(text):
    with pytest.raises(UserError, match="is malformed; expected source-target such as en-de; .*en-zh_Hans"):
        Pair.parse(text)


def test_pairs_of_unknown_languages():
    with pytest.raises(UserError, match="language code 'german' is malformed.*did you mean de"):
        Pair.parse("en-german")
    with pytest.raises(UserError, match="language code 'qq' is not known"):
        Pair.parse("qq-en")


def test_conditions():
    for task in TASKS:
        condition = Condition.parse(f"{task}:en-pt_BR")
        assert condition == Condition(task, Pair("en", "pt_BR"))
        assert str(condition) == f"{task}:en-pt_BR"
    for text, message in {
        "image_tranlsation:en-de": "did you mean image_translation",
        "en-de": "task 'en-de' is not known; known: describe, image_translation",
        "ocr": "pair '' is malformed",
        "ocr:en": "pair 'en' is malformed",
    }.items():
        with pytest.raises(UserError, match=message):
            Condition.parse(text)
