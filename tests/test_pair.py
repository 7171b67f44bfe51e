"""Text forms of pairs and conditions, and codes of languages as people write them."""

from __future__ import annotations

import pytest
from babel import Locale
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M_100
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as MBART_50
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB

from neuroglot.errors import UserError
from neuroglot.pair import TASKS, Condition, Pair, language_code, language_name, script_of
from neuroglot.systems.base import spelling

MANY_SCRIPTS = ("ace", "bjn", "crh", "kas", "knc", "sat", "taq", "tzm", "zho")
"""Languages that NLLB has in another script than the one that CLDR takes for the usual one."""


@pytest.mark.parametrize(
    ("written", "code"),
    [("de", "de"), ("DE", "de"), (" fr ", "fr"), ("zh-Hans", "zh_Hans"), ("ZH_hans", "zh_Hans"), ("pt-BR", "pt_BR"),
     ("pt_br", "pt_BR"), ("zh-hant-tw", "zh_Hant_TW"), ("es-419", "es_419"), ("haw", "haw"), ("tlh", "tlh"),
     ("sr-Latn", "sr_Latn"),
     # ISO 639-2 and -3, FLORES, NLLB, mBART, M2M-100
     ("deu", "de"), ("ger", "de"), ("chi", "zh"), ("cmn", "zh"), ("arb_Arab", "ar"), ("deu_Latn", "de"),
     ("zho_Hans", "zh_Hans"), ("cmn-Hans-CN", "zh_Hans_CN"), ("jpn_Jpan", "ja"), ("kor_Hang", "ko"), ("en_XX", "en"),
     ("cs_CZ", "cs_CZ"), ("prs_Arab", "fa_AF"), ("twi_Latn", "tw"), ("ns", "nso"), ("srp_Cyrl", "sr_Cyrl"),
     # deprecated, grandfathered, extlangs, variants
     ("iw", "he"), ("iw_IL", "he_IL"), ("in", "id"), ("ji", "yi"), ("jw", "jv"), ("mo", "ro"), ("tl", "fil"),
     ("sh", "sr_Latn"), ("zh-yue", "yue"), ("zh-cmn-Hant", "zh_Hant"), ("ar-arz-EG", "arz_EG"),
     ("sgn-ase", "ase"), ("zh-min-nan", "nan"), ("i-klingon", "tlh"),
     ("art-lojban", "jbo"), ("no-bok", "nb"), ("en-GB-oed", "en_GB_oxendict"), ("ca-valencia", "ca_valencia"),
     ("de-CH-1996", "de_CH_1996"),
     # a script that the region changes is never left out, and `zh` and `sr` say nothing about theirs
     ("pa_Guru_PK", "pa_Guru_PK"), ("ms_Latn_CC", "ms_Latn_CC"), ("zh", "zh"), ("sr", "sr")],
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
        ("az-AZ-Latn", "malformed"),
        ("en-deu", "'en-deu' is not known"),
        ("chi_sim", "not known"),
        ("zh-xxx", "not known"),
        ("de-foobar", "not known"),
        ("und", "'und' does not name one language"),
        ("und_Latn", "does not name one language"),
        ("mul", "does not name one language"),
        ("qaa", "does not name one language"),
        ("x-private", "has an extension or a private part"),
        ("en-u-ca-gregory", "has an extension or a private part"),
        ("jp", r"'jp' is not known; .*did you mean ja\? JP is the country Japan"),
        ("cn", "did you mean zh?"),
        ("ua", "did you mean uk?"),
        ("CZ", "did you mean cs?"),
        ("dk", "did you mean da?"),
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


def test_a_code_that_is_a_countrys_keeps_its_language_and_is_pointed_out(caplog):
    language_code.cache_clear()
    assert [language_code(code) for code in ("kr", "tw", "kr", "ko")] == ["kr", "tw", "kr", "ko"]
    assert [record.getMessage() for record in caplog.records] == [
        "language code 'kr' is Kanuri; for the language of South Korea write ko",
        "language code 'tw' is Twi; for the language of Taiwan write zh_Hant",
    ]


def test_every_known_language_has_a_name():
    for code in set(Locale("en").languages) - {"und", "mul", "zxx", "mis"}:
        assert not language_name(language_code(code)).startswith("Unknown"), code
        assert language_code(language_code(code)) == language_code(code)


FLORES_200 = {*NLLB, "arb_Latn", "min_Arab", "sat_Olck"} - {"sat_Beng"}


@pytest.mark.parametrize("known", [NLLB, FLORES_200, MBART_50, M2M_100["m2m100"]])
def test_the_codes_of_published_models_come_back_from_ours(known):
    """No two become one, none has to be given by hand, and each is read in a pair, with hyphens too."""
    for theirs in known:
        ours = language_code(theirs)
        assert language_code(ours) == ours == language_code(ours.replace("_", "-").upper())
        assert spelling(ours, known) == theirs
        assert Pair.parse(f"{theirs}-pt_BR") == Pair.parse(f"{ours}-pt-BR".replace("_", "-")) == Pair(ours, "pt_BR")


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
    assert min([Pair("en", "fr"), Pair("de", "fr"), Pair("en", "de")]) == Pair("de", "fr")
    for text, read in {
        "en-zh-CN": "en-zh_CN", "zh-Hans-en": "zh_Hans-en", "eng_Latn-zho_Hant": "en-zh_Hant", "zh-yue-en": "yue-en",
        "pt-BR-pt-PT": "pt_BR-pt_PT", "en-pt-BR": "en-pt_BR", "en-de-CH": "en-de_CH", "en_DE-ch": "en_DE-ch",
        "en-zh-hant-tw": "en-zh_Hant_TW", "en-ar-arz": "en-arz", "en-i-klingon": "en-tlh", "iw-jpn_Jpan": "he-ja",
    }.items():  # fmt: skip
        assert str(Pair.parse(text)) == read, text


@pytest.mark.parametrize("text", ["en", "en-", "-de", "", "en_de", "en-de-fr", "en-de-ch", "en--de", "a-b-c"])
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
