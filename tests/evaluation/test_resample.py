"""Figures from sums are the figures, drawn seeds and items are what the draws say, and intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu

from neuroglot.errors import UserError
from neuroglot.evaluation import metrics, paired_bootstrap
from neuroglot.evaluation.bootstrap import FIGURES, Draws, interval, reason, resample, statistics, value

WORDS = ["der", "die", "das", "Haus", "Tür", "links", "rechts", "12", "18:30", "Montag"]


def rows_of(seed, items=12, pairs=("en-de", "en-fr"), right=0.4, split="image_translation"):
    rng = np.random.default_rng(seed)
    rows = []
    for item in range(items):
        for pair in pairs:
            length = int(rng.integers(1, 9))
            reference = " ".join(rng.choice(WORDS, length)).replace(" 12", "\n12")
            wrong = " ".join(rng.choice(WORDS, int(rng.integers(0, 9))))
            nats = [float(x) for x in rng.exponential(5, 3)]
            rows.append(
                {"split": split, "pair": pair, "item": f"i{item}", "index": len(rows), "reference": reference,
                 "hypothesis": reference if rng.random() < right else wrong, "nll": nats[0],
                 "alternative_nll": nats[1:], "comet": nats[0]}
            )  # fmt: skip
    return rows


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("right", [0.0, 0.05, 0.7])
def test_a_figure_of_sums_is_the_figure(seed, right):
    rows = rows_of(seed, items=1 + seed * 4, pairs=("en-de",), right=right)
    hypotheses, references = [r["hypothesis"] for r in rows], [r["reference"] for r in rows]
    expected = metrics.score(hypotheses, references, "de", [r["nll"] for r in rows])
    for metric in ("bleu", "chrf", "exact", "nll"):
        made = statistics(rows, metric)
        found = float(value(made.sum(axis=0), metric))
        wanted = expected[metric]
        assert np.isnan(found) if wanted is None else found == pytest.approx(wanted, abs=1e-9), metric
    share = np.mean([r["nll"] < min(r["alternative_nll"]) for r in rows])
    assert float(value(statistics(rows, "contrastive").sum(axis=0), "contrastive")) == pytest.approx(100 * share)


@pytest.mark.parametrize("metric", FIGURES)
def test_a_draw_is_the_corpus_with_items_repeated(metric):
    rows = [*rows_of(0), *rows_of(1, split="ocr", pairs=("en-en",))]
    draws = Draws.make(rows, seeds=1, draws=5, seed=3)
    found = resample([rows], metric, ["image_translation", "ocr"], draws)
    for draw in range(6):
        means = []
        for split, names in draws.items.items():
            weights = draws.weights[split][draw]
            per_pair = []
            for pair in sorted({r["pair"] for r in rows if r["split"] == split}):
                corpus = [
                    r for r in rows if r["split"] == split and r["pair"] == pair
                    for _ in range(int(weights[names[r["item"]]]))
                ]  # fmt: skip
                per_pair.append(float(value(statistics(corpus, metric).sum(axis=0), metric)))
            means.append(np.mean(per_pair))
        assert found[draw] == pytest.approx(np.mean(means))


def test_seeds_are_drawn_too_and_the_first_draw_is_the_data():
    runs = [rows_of(seed, right=0.1 + 0.2 * seed) for seed in range(4)]
    for run in runs[1:]:  # the same items, other answers
        for row, first in zip(run, runs[0], strict=True):
            row["reference"] = first["reference"]
    draws = Draws.make(runs[0], seeds=4, draws=50)
    alone = np.stack([resample([run], "exact", ["image_translation"], draws) for run in runs])
    found = resample(runs, "exact", ["image_translation"], draws)
    assert found[0] == pytest.approx(alone[:, 0].mean())
    assert found == pytest.approx((alone.T * draws.seeds).sum(axis=1) / 4)
    assert found[1:].std() > alone.mean(axis=0)[1:].std()  # seeds that differ widen the interval


def test_what_a_system_lacks_is_none():
    rows = rows_of(0)
    draws = Draws.make(rows, seeds=1, draws=3)
    rows[0]["nll"] = None
    assert resample([rows], "nll", ["image_translation"], draws) is None
    assert resample([rows], "contrastive", ["image_translation"], draws) is None
    assert resample([rows], "exact", ["ocr"], draws) is None


def test_intervals_over_seeds_and_items_cover_the_truth():
    """Both sources of chance, at known size: about 95 of 100 intervals hold the true mean."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(120):
        of_seed, of_item = 0.4 * rng.standard_normal(8), 0.8 * rng.standard_normal(30)
        runs = [
            [
                {"split": "s", "pair": "en-de", "item": str(i), "index": i, "hypothesis": "", "reference": "xx",
                 "nll": 2 * (3 + of_seed[s] + of_item[i] + 0.3 * rng.standard_normal())}
                for i in range(30)
            ]
            for s in range(8)
        ]  # fmt: skip
        draws = Draws.make(runs[0], seeds=8, draws=300, seed=trial)
        low, high = np.quantile(resample(runs, "nll", ["s"], draws)[1:], [0.025, 0.975])
        covered += low <= 3 <= high
    assert 0.88 <= covered / 120 <= 1.0


def test_draws_in_which_a_figure_means_nothing_are_not_counted_and_many_leave_no_interval():
    def rows(short, long):
        texts = ["one red car"] * short + ["one very red car is here"] * long
        return [{"split": "s", "pair": "en-de", "item": str(i), "index": i, "hypothesis": text, "reference": text}
                for i, text in enumerate(texts)]  # fmt: skip

    for short, long, known in ((3, 1, False), (0, 1, False), (2, 8, True)):
        made = rows(short, long)
        draws = Draws.make(made, seeds=1, draws=200)
        found = resample([made], "bleu", ["s"], draws)
        assert found[0] == pytest.approx(100)
        assert (interval(found, len(made)) is not None) == known
        gap = paired_bootstrap(made, made, "bleu", 200)
        assert (gap.value, gap.p) == (0, 1 if known else None)
    made = rows(14, 1)
    assert resample([made], "bleu", ["s"], Draws.make(made, seeds=1, draws=5)) is None
    assert "3 runs of four tokens in 15" in reason(made, "bleu", ["s"])
    with pytest.raises(UserError, match="means nothing: the references are too short"):
        paired_bootstrap(rows(20, 1), rows(20, 1), "bleu", 20)


def test_any_of_several_references_will_do():
    rows = [{"pair": "en-de", "index": 0, "hypothesis": "b c d e f", "reference": "x y z u v", "references":
             ["x y z u v", "b c d e f"]},
            {"pair": "en-de", "index": 1, "hypothesis": "g h i j", "reference": "g h i k"}]  # fmt: skip
    said, streams = [r["hypothesis"] for r in rows], [["x y z u v", "g h i k"], ["b c d e f", None]]
    made = {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF(word_order=2), "chrf0": sacrebleu.CHRF(),
            "ter": sacrebleu.TER()}  # fmt: skip
    for name, metric in made.items():
        expected = metric.corpus_score(said, streams)
        assert float(value(statistics(rows, name).sum(axis=0), name)) == pytest.approx(expected.score), name
        assert metrics.signature_of(name, rows).startswith(str(metric.get_signature()))
    assert float(value(statistics(rows, "exact").sum(axis=0), "exact")) == 50
