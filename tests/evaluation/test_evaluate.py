"""The shape of the scores, what is kept of every example, and files that appear whole or not at all."""

from __future__ import annotations

import json
import math

import pytest
import sacrebleu

from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.evaluation import (
    evaluate,
    metrics,
    read_scores,
    score_domains,
    score_rows,
    write_hypotheses,
    write_scores,
)
from neuroglot.evaluation.metrics import METRICS

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]


class Copier:
    """Answers with the reference, wrong in its last word for every second item."""

    name = "copier"

    def __init__(self, nats=lambda example: float(len(example.target))):
        self.nats = nats

    def translate(self, examples):
        return [
            one.target if int(one.item[1:]) % 2 == 0 else one.target.rsplit(" ", 1)[0] + " wrong" for one in examples
        ]

    def nll(self, examples):
        return None if self.nats is None else [self.nats(one) for one in examples]


def examples(task="image_translation", languages=("de", "fr"), count=4):
    return [
        Example((), None, " ".join([*WORDS[index:], *WORDS[:index], language]), "en", language, task, item=f"i{index}")
        for language in languages
        for index in range(count)
    ]


@pytest.fixture
def splits():
    return {"image_translation": examples(), "ocr": examples("ocr", ("en",), 2)}


def test_scores_have_every_pair_and_the_average(splits):
    scores, rows = evaluate(Copier(), splits)
    assert {split: list(by_pair) for split, by_pair in scores.items()} == {
        "image_translation": ["en-de", "en-fr", "average"],
        "ocr": ["en-en", "average"],
    }
    for by_pair in scores.values():
        for figures in by_pair.values():
            assert set(figures) == {*METRICS, "n"}
            assert figures["contrastive"] is None
    german = [row for row in rows if row["pair"] == "en-de"]
    texts = [row["hypothesis"] for row in german], [[row["reference"] for row in german]]
    assert scores["image_translation"]["en-de"]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(*texts).score)
    assert scores["image_translation"]["en-de"]["exact"] == 50.0
    assert scores["image_translation"]["average"]["n"] == 8
    assert scores["image_translation"]["average"]["nll"] == pytest.approx(1.0)


def test_every_example_is_kept(splits):
    _, rows = evaluate(Copier(), splits)
    assert len(rows) == 10
    first = splits["image_translation"][0]
    assert rows[0] == {
        "system": "copier",
        "split": "image_translation",
        "task": "image_translation",
        "pair": "en-de",
        "item": "i0",
        "index": 0,
        "source": None,
        "reference": first.target,
        "hypothesis": first.target,
        "nll": float(len(first.target)),
    }
    assert score_rows(row for row in rows if row["split"] == "ocr")["average"]["n"] == 2


class Weigher(Copier):
    """A text costs its length in nats: of two readings the shorter is the likelier."""

    name = "weigher"


def ambiguous(target, *alternatives, language="de", domain="lexical", item="i0"):
    return Example((), "bat", target, "en", language, "multimodal_translation", alternatives, item, {"domain": domain})


def test_alternatives_are_weighed_against_the_target():
    split = [
        ambiguous("kurz", "etwas lang"),
        ambiguous("etwas lang", "kurz"),
        ambiguous("mittel", "ganz lang", "kurz"),
        ambiguous("ja", "nein", "doch"),
        ambiguous("long", "tout court", language="fr", domain="number"),
    ]
    scores, rows = evaluate(Weigher(), {"multimodal_translation": split, "ocr": examples("ocr", ("en",), 2)})
    assert [row.get("alternative_nll") for row in rows] == [[10.0], [4.0], [9.0, 4.0], [4.0, 4.0], [10.0], None, None]
    by_pair = scores["multimodal_translation"]
    assert (by_pair["en-de"]["contrastive"], by_pair["en-fr"]["contrastive"]) == (50.0, 100.0)
    assert by_pair["average"]["contrastive"] == 75.0
    assert scores["ocr"]["average"]["contrastive"] is None
    assert [row.get("domain") for row in rows] == ["lexical"] * 4 + ["number", None, None]
    domains = score_domains(rows)
    assert {domain: (one["contrastive"], one["n"]) for domain, one in domains.items()} == {
        "lexical": (50.0, 4),
        "number": (100.0, 1),
    }
    assert score_rows(rows[:5])["average"]["contrastive"] == 75.0, "from the rows alone"


def test_contrastive_needs_every_likelihood():
    mixed = [ambiguous("kurz", "etwas lang"), ambiguous("allein")]
    assert evaluate(Weigher(), {"m": mixed})[0]["m"]["average"]["contrastive"] is None
    overflowed = Weigher(lambda one: math.inf if one.target == "etwas lang" else 1.0)
    scores, rows = evaluate(overflowed, {"m": mixed[:1]})
    assert rows[0]["alternative_nll"] == [None]
    assert scores["m"]["average"]["contrastive"] is None
    silent, rows = evaluate(Weigher(nats=None), {"m": mixed})
    assert "alternative_nll" not in rows[0]
    assert silent["m"]["average"]["contrastive"] is None


def test_a_system_without_likelihood_scores_null(splits):
    scores, rows = evaluate(Copier(nats=None), splits)
    assert scores["ocr"]["average"]["nll"] is None
    assert rows[0]["nll"] is None


def test_an_overflowed_likelihood_is_null_and_stops_nothing(splits, tmp_path):
    scores, _ = evaluate(Copier(nats=lambda one: math.inf if one.target_lang == "fr" else 1.0), splits)
    by_pair = scores["image_translation"]
    assert (by_pair["en-fr"]["nll"], by_pair["average"]["nll"]) == (None, None)
    assert by_pair["en-de"]["nll"] > 0
    write_scores(tmp_path / "scores.json", {"copier": scores})


def test_progress_names_each_split(splits):
    calls = []
    evaluate(Copier(), splits, progress=lambda *call: calls.append(call))
    assert calls == [("image_translation", 1, 2), ("ocr", 2, 2)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no splits"),
        ({"ocr": []}, "split 'ocr' is empty"),
        ({"ocr": [Example((), None, "", "en", "en", "ocr", item="x7")]}, "x7.*has no reference"),
    ],
)
def test_nothing_to_evaluate(given, message):
    with pytest.raises(UserError, match=message):
        evaluate(Copier(), given)


def test_files(splits, tmp_path):
    scores, rows = evaluate(Copier(), splits)
    ceilings = {"image_translation": {"text alone": 50.0}}
    written = write_scores(tmp_path / "scores.json", {"copier": scores}, {"copier": 1.23456}, ceilings=ceilings)
    assert read_scores(tmp_path / "scores.json") == written
    assert written["format"] == "neuroglot-scores-2"
    assert written["systems"]["copier"] == scores
    assert written["seconds"] == {"copier": 1.235}
    assert written["ceilings"] == ceilings
    assert set(written["signatures"]["bleu"]) == set(written["signatures"]["chrf"]) == {"en-de", "en-en", "en-fr"}
    write_hypotheses(tmp_path / "hypotheses.jsonl", rows)
    lines = (tmp_path / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hypotheses.jsonl", "scores.json"]


def test_every_script_stays_readable(tmp_path):
    write_hypotheses(tmp_path / "h.jsonl", [{"hypothesis": "बाहर निकलें"}])
    assert "बाहर निकलें" in (tmp_path / "h.jsonl").read_text(encoding="utf-8")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "hypotheses.jsonl"
    write_hypotheses(path, [{"hypothesis": "old"}])
    before = path.read_bytes()

    def rows():
        yield {"hypothesis": "new"}
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_hypotheses(path, rows())
    with pytest.raises(UnicodeEncodeError):  # in the middle of writing
        write_hypotheses(path, [{"hypothesis": "new"}, {"hypothesis": "\ud800"}])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "run the evaluate stage"), ("{", "not valid JSON"), ('{"format": "x"}', "format 'x'"), ("[]", "list")],
)
def test_unreadable_scores(tmp_path, content, message):
    if content is not None:
        (tmp_path / "scores.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_scores(tmp_path / "scores.json")


class Perplexed(Weigher):
    """Counts a token a word, so that of two readings the one with the longer words costs more per token."""

    name = "perplexed"

    def tokens(self, examples):
        return [len(one.target.split()) for one in examples]


def test_readings_are_ranked_by_perplexity_where_tokens_are_counted(tmp_path):
    split = [ambiguous("a b c d e", "kurz"), ambiguous("kurz", "a b c d e"), ambiguous("ja", "nein", "so so")]
    likelihood, rows = evaluate(Weigher(), {"m": split})
    perplexity, counted = evaluate(Perplexed(), {"m": split})
    assert likelihood["m"]["en-de"]["contrastive"] == pytest.approx(100 * 2 / 3), "kurz, ja: the fewer nats"
    assert perplexity["m"]["en-de"]["contrastive"] == pytest.approx(100 * 2 / 3), "nine nats in five words, two in one"
    assert [(row["tokens"], row["alternative_tokens"]) for row in counted] == [(5, [1]), (1, [5]), (1, [1, 2])]
    right = [costs[0] < min(costs[1]) for costs in map(metrics.costs, counted)]
    assert right == [True, False, True]
    assert [row["nll"] < min(row["alternative_nll"]) for row in rows] == [False, True, True]
    kept = write_scores(tmp_path / "scores.json", {"perplexed": perplexity}, rows=counted)
    assert kept["signatures"]["contrastive"] == {"en-de": "tie:lost|perplexity:token"}
    both = write_scores(tmp_path / "scores.json", {"weigher": likelihood}, rows=[*rows, *counted])
    assert both["signatures"]["contrastive"] == {"en-de": "tie:lost|likelihood:text|perplexity:token"}
