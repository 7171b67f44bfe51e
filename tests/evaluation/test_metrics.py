"""The figures against sacreBLEU called directly, and against values worked out by hand."""

from __future__ import annotations

import math
import subprocess
import sys
import unicodedata

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from neuroglot.errors import UserError
from neuroglot.evaluation import metrics
from neuroglot.evaluation.bootstrap import value

REFERENCES = ["der Hund läuft über die Straße .", "geöffnet von 9 bis 17 Uhr", "bitte nicht betreten", "Ausgang"]
HYPOTHESES = ["der Hund läuft auf der Straße .", "geöffnet von 9 bis 18 Uhr", "bitte nicht betreten", "Eingang"]


def test_bleu_and_chrf_are_sacrebleus_own():
    assert metrics.corpus_bleu(HYPOTHESES, REFERENCES, "de") == pytest.approx(
        sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES], tokenize="13a").score
    )
    assert metrics.corpus_chrf(HYPOTHESES, REFERENCES) == pytest.approx(
        sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES], word_order=2).score
    )


def test_bleu_by_hand():
    # 1-grams 5/6, 2-grams 3/5, 3-grams 2/4, 4-grams 1/3, no brevity penalty.
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert metrics.corpus_bleu(["a b c d x f"], ["a b c d e f"], "de") == pytest.approx(expected)
    # Five of six tokens, all right: the penalty alone.
    assert metrics.corpus_bleu(["a b c d e"], ["a b c d e f"], "de") == pytest.approx(100 * math.exp(1 - 6 / 5))


@pytest.mark.parametrize(
    ("language", "expected"), [("zh", "zh"), ("zh_Hans", "zh"), ("de", "13a"), ("hi", "13a"), ("pt_BR", "13a")]
)
def test_tokeniser_follows_the_target(language, expected):
    assert metrics.tokeniser(language) == expected


@pytest.mark.parametrize("language", ["ja", "ko"])
def test_mecab_where_installed_else_by_character(language):
    name = f"{language}-mecab"
    try:
        sacrebleu.metrics.BLEU(tokenize=name)
    except (ImportError, RuntimeError):
        name = "char"
    assert metrics.tokeniser(language) == name
    assert f"tok:{name}" in metrics.signatures([f"en-{language}"])["bleu"][f"en-{language}"]


def ter_by_command(tmp_path, hypotheses, references, *options):
    """What sacreBLEU's own command says, from files."""
    for name, texts in (("hyp", hypotheses), ("ref", references)):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "ter", "-b", "-w", "6", *options]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    return float(said.stdout)


def test_ter_is_that_of_sacrebleus_command(tmp_path):
    expected = ter_by_command(tmp_path, HYPOTHESES, REFERENCES)
    assert metrics.corpus_ter(HYPOTHESES, REFERENCES, "de") == pytest.approx(expected, abs=1e-5)
    assert 0 < expected < 100
    assert metrics.signature("ter", "de").startswith("nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:")


def test_ter_by_hand():
    # One substitution, one deletion; moving a block is one edit however long it is.
    assert metrics.corpus_ter(["a b x"], ["a b c d"], "de") == pytest.approx(100 * 2 / 4)
    assert metrics.corpus_ter(["c d e a b"], ["a b c d e"], "de") == pytest.approx(100 * 1 / 5)


def test_ter_of_chinese_is_by_character(tmp_path):
    texts = ["请勿在此吸烟"], ["请勿在此停车"]
    assert metrics.corpus_ter(*texts, "zh_Hans") == pytest.approx(100 * 2 / 6)
    options = ("--ter-normalized", "--ter-asian-support")
    assert metrics.corpus_ter(*texts, "zh_Hans") == pytest.approx(ter_by_command(tmp_path, *texts, *options), abs=1e-5)
    assert "norm:yes|punct:yes|asian:yes" in metrics.signature("ter", "zh_Hans")


def test_perplexity_does_not_prefer_the_short_reading():
    """The reference costs more nats, but less per token: CoMMuTE ranks by perplexity."""
    row = {"nll": 6.0, "tokens": 6, "alternative_nll": [4.0], "alternative_tokens": [2]}
    assert metrics.costs(row) == (1.0, [2.0])
    assert metrics.costs({**row, "tokens": None}) == (6.0, [4.0]), "a system that counts no tokens"
    assert metrics.costs({**row, "alternative_nll": [None]}) is None
    assert metrics.contrastive_signature([row]) == "tie:lost|perplexity:token"
    assert metrics.contrastive_signature([{**row, "tokens": None}]) == "tie:lost|likelihood:text"
    assert metrics.contrastive_signature([{**row, "alternative_tokens": None}]) == "tie:lost|likelihood:text"


@given(st.floats(0.1, 50), st.floats(0.1, 50), st.integers(1, 20), st.integers(1, 20))
def test_who_ignores_the_picture_gets_half(right, wrong, length, other):
    """Both readings of a source are items; the same costs, swapped, win one of the two, unless they tie."""
    one = {"nll": right, "tokens": length, "alternative_nll": [wrong], "alternative_tokens": [other]}
    two = {"nll": wrong, "tokens": other, "alternative_nll": [right], "alternative_tokens": [length]}
    costs = [metrics.costs(one), metrics.costs(two)]
    share = metrics.contrastive([own for own, _ in costs], [others for _, others in costs])
    assert share == (0.0 if right / length == wrong / other else 50.0)


def test_chinese_is_split_by_character():
    assert metrics.corpus_bleu(["请勿在此吸烟"], ["请勿在此停车"], "zh_Hans") == pytest.approx(
        sacrebleu.corpus_bleu(["请勿在此吸烟"], [["请勿在此停车"]], tokenize="zh").score
    )


def test_signatures_are_those_of_the_scores():
    kept = metrics.signatures(["en-de", "en-zh_Hans", "en-de"])
    assert list(kept["bleu"]) == ["en-de", "en-zh_Hans"]
    assert kept["bleu"]["en-de"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "tok:zh" in kept["bleu"]["en-zh_Hans"]
    assert "nw:2" in kept["chrf"]["en-de"]


def test_exact_match_is_after_nfc_and_strip():
    composed, decomposed = "caf\u00e9 ouvert", "cafe\u0301 ouvert"
    assert composed != decomposed
    assert metrics.is_exact(decomposed, composed)
    assert metrics.is_exact("  open\n", "open")
    assert not metrics.is_exact("Open", "open")
    assert metrics.exact_match([decomposed, "a", "b", "c"], [composed, "a", "x", "c"]) == 75.0


def test_nll_is_total_nats_over_total_characters():
    assert metrics.nll_per_character([2.0, 10.0], ["ab", "abcd"]) == pytest.approx(2.0)
    assert metrics.nll_per_character([3.0], ["e\u0301 \n"]) == pytest.approx(3.0), "one character after NFC and strip"


def test_score_has_every_figure_and_null_without_likelihood():
    got = metrics.score(["a b c d"], ["a b c d"], "de")
    expected = {"bleu": pytest.approx(100), "chrf": pytest.approx(100), "ter": 0.0, "exact": 100.0, "n": 1}
    assert got == {**expected, "nll": None, "contrastive": None, "lines": None, "bleu_lines": None}
    assert metrics.score(["a b c d"], ["a b c d"], "de", alternatives=[[1.0]])["contrastive"] is None


def test_contrastive_counts_references_that_beat_every_alternative():
    assert metrics.contrastive([1.0, 1.0, 1.0, 1.0], [[2.0], [0.5], [2.0, 0.5], [1.0]]) == 25.0, "a tie is lost"
    assert metrics.score(["a", "b"], ["a", "b"], "de", [3.0, 1.0], [[4.0], [0.1]])["contrastive"] == 50.0


@pytest.mark.parametrize(("said", "wanted", "why"), [
    (["a red car and a tree"] * 3, ["one red car"] * 3, "the references are too short: 0 runs of four tokens in 3"),
    (["a red car"] * 9, [*["one red car"] * 8, "one very red car"], "1 runs of four tokens in 9"),
    (["a red car"] * 3, ["one red car is here"] * 3, "no answer is as long as four tokens"),
])  # fmt: skip
def test_bleu_that_would_mean_nothing_is_none_and_the_reason_is_said(said, wanted, why):
    found = metrics.score(said, wanted, "en")
    assert found["bleu"] is None
    assert why in found["reasons"]["bleu"]
    assert found["chrf"] > 0
    mean = metrics.average([found, metrics.score(["a b c d"], ["a b c d"], "en")])
    assert mean["bleu"] is None
    assert mean["reasons"] == found["reasons"]


def test_a_collapsed_system_has_scores_and_empty_references_have_none():
    collapsed = metrics.score([""] * 3, ["one red car is here"] * 3, "en")
    assert (collapsed["bleu"], collapsed["chrf"], collapsed["ter"], collapsed["exact"]) == (0, 0, 100, 0)
    empty = metrics.score(["a b c d"], [""], "en", [3.0])
    assert {empty[name] for name in ("bleu", "chrf", "ter", "nll")} == {None}
    assert set(empty["reasons"]) == {"bleu", "chrf", "ter", "nll"}


def test_all_figures_see_the_same_texts():
    wanted = ["Der große Käfer läuft über die Straße"]
    for said in (unicodedata.normalize("NFD", wanted[0]), f"\ufeff{wanted[0]}", wanted[0].replace(" ", "\u00a0"),
                 wanted[0].replace("große", "gro\u00adße\u200b"), f" {wanted[0]}\r\n"):  # fmt: skip
        found = metrics.score([said], wanted, "de")
        assert (found["bleu"], found["chrf"], found["ter"], found["exact"]) == (
            pytest.approx(100), pytest.approx(100), 0, 100
        )  # fmt: skip


def test_average_is_the_mean_over_pairs_not_over_examples():
    rows = [
        {"bleu": 10.0, "chrf": 20.0, "ter": 60.0, "exact": 0.0, "nll": 1.0, "n": 1},
        {"bleu": 30.0, "chrf": 40.0, "ter": 70.0, "exact": 50.0, "nll": 2.0, "n": 99},
    ]
    expected = {"bleu": 20.0, "chrf": 30.0, "ter": 65.0, "exact": 25.0, "nll": 1.5, "n": 100}
    assert metrics.average(rows) == {**expected, "contrastive": None, "lines": None, "bleu_lines": None}
    assert metrics.average([{**rows[0], "contrastive": 60.0}, {**rows[1], "contrastive": 90.0}])["contrastive"] == 75.0
    assert metrics.average([{**rows[0], "contrastive": 60.0}, rows[1]])["contrastive"] is None
    assert metrics.average([rows[0], {**rows[1], "nll": None}])["nll"] is None


@given(st.lists(st.tuples(st.text(alphabet="ab .,", max_size=12), st.text(alphabet="ab .", min_size=1, max_size=12))))
def test_statistics_sum_to_corpus_bleu(texts):
    if not texts:
        return
    hypotheses, references = map(list, zip(*texts, strict=True))
    summed = metrics.bleu_statistics(hypotheses, references, metrics.bleu_metric("de")).sum(axis=0)
    direct = sacrebleu.metrics.BLEU(force=True).corpus_score(hypotheses, [references]).score
    found = float(value(summed.astype(float), "bleu"))
    if math.isnan(found):  # no reference, or no answer, has four tokens
        assert metrics.why_no_bleu(summed)
    else:
        assert found == pytest.approx(direct)


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], ["a", "b"])])
def test_what_cannot_be_scored(hypotheses, references):
    with pytest.raises(UserError):
        metrics.score(hypotheses, references, "de")


def test_scoring_does_not_load_torch():
    code = "import sys, neuroglot.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
