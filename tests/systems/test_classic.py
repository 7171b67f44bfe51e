"""Classic multimodal translation systems: they learn, they look, they are saved, killed and resumed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import log_softmax
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaImageProcessorPil

from neuroglot.baselines import KINDS, ClassicSettings, ClassicSystem, TowerFeatures, load, train
from neuroglot.baselines.network import LanguageAwarePrompt, Network, Vision, fusion_of
from neuroglot.baselines.settings import CLASSIC
from neuroglot.baselines.system import WEIGHTS
from neuroglot.config import check
from neuroglot.config.methods import CLASSIC as METHODS
from neuroglot.data.example import Example, RenderSpec
from neuroglot.errors import UserError
from neuroglot.evaluation import evaluate
from neuroglot.file_format import MANIFEST, read_json
from neuroglot.pair import Pair
from neuroglot.pipeline.context import Context
from neuroglot.pipeline.evaluation import HOME, load_classic
from neuroglot.synthetic.scenes import scene_examples
from neuroglot.systems import System

FUSIONS = KINDS[1:]
SETTINGS = ClassicSettings(width=32, layers=1, heads=2, inner=64, dropout=0.0, pieces=400, steps=120, batch_size=16,
                           lr=5e-3, warmup=0.05, label_smoothing=0.0, eval_steps=60)  # fmt: skip


class Noise:
    """Vectors that follow from what a picture is said to show, and nothing else."""

    def __call__(self, images: Any) -> torch.Tensor:
        return torch.stack([self.vectors(image.text) for image in images])

    def vectors(self, text: str) -> torch.Tensor:
        rng = np.random.default_rng(list(text.encode()))
        return torch.from_numpy(rng.normal(size=(4, 6)).astype(np.float32))

    def prepare(self, images: Any) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {}


def example(source: str, shows: str | None, target: str, to: str = "de") -> Example:
    images = () if shows is None else (RenderSpec(shows, 0, 0, "scene"),)
    task = "multimodal_translation" if images else "text_translation"
    return Example(images, source, target, "en", to, task, item=f"{source}{shows}")


AMBIGUOUS = [
    example(source, shows, target, to)
    for source, shows, target, to in (
        ("bat: 12", "animal", "Fledermaus: 12", "de"), ("bat: 12", "club", "Schläger: 12", "de"),
        ("bat: 12", "animal", "chauve-souris : 12", "fr"), ("bat: 12", "club", "batte : 12", "fr"),
        ("nail", "finger", "Fingernagel", "de"), ("nail", "iron", "Eisennagel", "de"),
        ("nail", "finger", "ongle", "fr"), ("nail", "iron", "clou", "fr"),
    )
]  # fmt: skip
PLAIN = [example("one red fish", None, "ein roter Fisch"), example("one red fish", None, "un poisson rouge", "fr"),
         example("two cups", None, "zwei Tassen"), example("two cups", None, "deux tasses", "fr")]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ClassicSystem, Any]]:
    """Every kind, trained on a handful of examples, with its folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("classic")
    given = {kind: AMBIGUOUS + PLAIN if kind in FUSIONS else PLAIN for kind in KINDS}
    made = {kind: (train(kind, given[kind], [], Noise(), SETTINGS, folder / kind), folder / kind) for kind in KINDS}
    torch.set_num_threads(threads)
    return made


def test_features_that_are_not_finite_end_the_training_with_one_line(tmp_path: Path) -> None:
    class Broken(Noise):
        def vectors(self, text: str) -> torch.Tensor:
            return super().vectors(text) * float("nan")

    with pytest.raises(UserError, match="diverged at step 1 .*lower train.lr") as error:
        train(FUSIONS[0], AMBIGUOUS, [], Broken(), SETTINGS, tmp_path / "broken")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_handful_of_examples_is_learnt_to_the_letter(trained: Any, kind: str) -> None:
    system, _ = trained[kind]
    assert isinstance(system, System)
    examples = AMBIGUOUS + PLAIN if kind in FUSIONS else PLAIN
    assert system.translate(examples) == [e.target for e in examples]
    assert load(trained[kind][1], Noise(), num_beams=3).translate(examples) == [e.target for e in examples]


@pytest.mark.parametrize("kind", KINDS)
def test_nll_is_the_sum_over_tokens_given_those_before(trained: Any, kind: str) -> None:
    system, _ = trained[kind]
    examples = [replace(e, target=e.target[::-1]) for e in (AMBIGUOUS[2], AMBIGUOUS[5])] if kind in FUSIONS else []
    examples += PLAIN[:2]
    by_hand = []
    for one in examples:
        source, vision = system.inputs([one])
        tokens, total = system.vocabulary.target(one.target), 0.0
        for place, token in enumerate(tokens):
            with torch.no_grad():
                logits = system.network(source, vision, torch.tensor([tokens[: place + 1]]))
            total -= float(log_softmax(logits[0, place], -1)[token])
        by_hand.append(total)
    assert min(by_hand[: len(examples) - 2], default=9) > 1  # these were never learnt
    assert system.nll(examples) == pytest.approx(by_hand, rel=1e-4, abs=1e-4)  # in one batch, padded


def test_tokens_are_those_that_the_nats_are_of(trained: Any) -> None:
    system, _ = trained["text-transformer"]
    _source, _vision = system.inputs(PLAIN)
    targets = [system.vocabulary.target(e.target) for e in PLAIN]
    assert system.tokens(PLAIN) == [len(target) for target in targets]
    assert max(system.tokens(PLAIN)) < max(len(e.target) for e in PLAIN), "pieces, not characters"
    _, rows = evaluate(system, {"x": [replace(e, alternatives=(e.target[::-1],)) for e in PLAIN]})
    assert all(len(row["alternative_tokens"]) == 1 and row["tokens"] for row in rows)


def test_beams_are_searched_with_the_length_penalty_that_is_asked_for(trained: Any) -> None:
    folder, given = trained["text-transformer"][1], []
    system = load(folder, Noise(), num_beams=3, max_new_tokens=4, length_penalty=-2.0)
    own = system.network.translator.generate
    system.network.translator.generate = lambda **options: given.append(options) or own(**options)
    system.translate(PLAIN)
    assert (given[0]["num_beams"], given[0]["max_new_tokens"], given[0]["length_penalty"]) == (3, 4, -2.0)


def test_a_run_searches_as_it_does_with_every_system(trained: Any, tmp_path: Any) -> None:
    recipe = check(
        {"task": "multimodal_translation", "data": {"source": "scenes", "pairs": ["en-de"]},
         "evaluate": {"beams": 3, "max_new_tokens": 7, "length_penalty": 0.5, "batch_size": 5}}, "test"
    )  # fmt: skip
    shutil.copytree(trained["gated-fusion"][1], tmp_path / HOME)
    context = Context(recipe, tmp_path, lambda label, total: lambda done: None, print)
    system = load_classic(context, tmp_path / "features")
    found = (system.num_beams, system.max_new_tokens, system.length_penalty, system.batch_size)
    assert found == (3, 7, 0.5, 5)


@pytest.mark.parametrize("kind", FUSIONS)
def test_exchanged_pictures_exchange_the_answers(trained: Any, kind: str) -> None:
    system, _ = trained[kind]
    other = [replace(e, images=f.images) for e, f in zip(AMBIGUOUS[::2], AMBIGUOUS[1::2], strict=True)]
    assert system.translate(other) == [e.target for e in AMBIGUOUS[1::2]]
    wrong = [replace(e, target=f.target) for e, f in zip(AMBIGUOUS[::2], AMBIGUOUS[1::2], strict=True)]
    assert all(right < false for right, false in zip(system.nll(AMBIGUOUS[::2]), system.nll(wrong), strict=True))


def test_the_text_transformer_answers_the_same_whatever_is_shown(trained: Any) -> None:
    system, _ = trained["text-transformer"]
    shown = [replace(e, images=(RenderSpec("animal", 0, 0, "scene"),), task="multimodal_translation") for e in PLAIN]
    assert system.nll(shown) == system.nll(PLAIN)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_system_is_the_one_that_was_saved(trained: Any, kind: str) -> None:
    system, folder = trained[kind]
    again = load(folder, Noise())
    assert again.nll(PLAIN) == system.nll(PLAIN)
    for name, tensor in system.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name
    weights = folder / WEIGHTS
    saved = weights.read_bytes()
    try:
        weights.write_bytes(saved[:-1] + b"\0\0")
        with pytest.raises(UserError, match="damaged or was changed"):
            load(folder)
    finally:
        weights.write_bytes(saved)


@pytest.mark.parametrize("kind", ["gated-fusion", "gated-fusion-wu"])
def test_a_closed_gate_leaves_the_text_transformer(trained: Any, kind: str) -> None:
    fused, _ = trained[kind]
    text = Network("text-transformer", fused.settings, len(fused.vocabulary), 0)
    text.translator.load_state_dict(fused.network.translator.state_dict())
    plain = ClassicSystem("text-transformer", text, fused.vocabulary, Noise(), fused.settings, 0)
    closed = Network(kind, fused.settings, len(fused.vocabulary), fused.image_width)
    closed.load_state_dict(fused.network.state_dict())
    shut = ClassicSystem(kind, closed, fused.vocabulary, Noise(), fused.settings, fused.image_width)
    assert shut.nll(AMBIGUOUS) != plain.nll(AMBIGUOUS)
    closed.fusion.gate.bias.data.fill_(-1e9)
    assert shut.nll(AMBIGUOUS) == plain.nll(AMBIGUOUS)
    assert shut.translate(AMBIGUOUS) == plain.translate(AMBIGUOUS)


@pytest.mark.parametrize("kind", FUSIONS)
def test_texts_without_a_picture_are_not_touched_by_others_in_the_batch(trained: Any, kind: str) -> None:
    system, _ = trained[kind]
    tokens, mask = torch.randn(2, 4, 6), torch.tensor([[True] * 4, [False] * 4])
    source, none = system.inputs([PLAIN[0]] * 2)
    with torch.no_grad():
        mixed, seen = system.network.encode(source, Vision(tokens, mask))
        alone, _ = system.network.encode(source, none)
    length = alone.shape[1]
    assert seen[1].tolist() == [1] * length + [0] * (seen.shape[1] - length)
    assert torch.allclose(mixed[1, :length], alone[1], atol=1e-5)
    if kind == "concatenation":  # the encoder has not seen the picture; the decoder attends to both
        assert seen[0].tolist() == [1] * (length + 4)
        assert torch.allclose(mixed[0, :length], alone[0], atol=1e-5)
    else:
        assert not torch.allclose(mixed[0, :length], alone[0], atol=1e-2)


def test_the_formulas_are_those_of_their_authors() -> None:
    """Li et al. weigh text against image, (1 - g) * H + g * z; Wu et al. add the gated image, H + g * z."""
    torch.manual_seed(0)
    states, mask = torch.randn(1, 3, SETTINGS.width), torch.ones(1, 3).long()
    vision, language = Vision(torch.randn(1, 4, 6), torch.ones(1, 4).bool()), torch.randn(1, SETTINGS.width)
    for kind, weighs in (("gated-fusion", True), ("gated-fusion-wu", False)):
        fusion = fusion_of(kind, SETTINGS, 6)
        z = vision.tokens.mean(1) @ fusion.project.weight.T + fusion.project.bias
        w_text, w_image = fusion.gate.weight.split(SETTINGS.width, 1)
        gate = torch.sigmoid(states @ w_text.T + z @ w_image.T + fusion.gate.bias)
        expected = ((1 - gate) * states if weighs else states) + gate * z
        torch.testing.assert_close(fusion(states, mask, vision, language)[0], expected)
    fusion = fusion_of("concatenation", SETTINGS, 6)
    expected = torch.cat([states, vision.tokens @ fusion.project.weight.T + fusion.project.bias], 1)
    torch.testing.assert_close(fusion(states, mask, vision, language)[0], expected)


def test_the_target_language_writes_the_prompt() -> None:
    torch.manual_seed(0)
    fusion = LanguageAwarePrompt(SETTINGS, 6).eval()
    vision = Vision(torch.randn(1, 4, 6).expand(2, 4, 6), torch.ones(2, 4).bool())
    language = torch.randn(2, SETTINGS.width)
    first, second = fusion.prompt(vision, language)
    assert not torch.allclose(first, second, atol=0.1)
    again, same = fusion.prompt(vision, language[:1].expand(2, -1))
    assert torch.equal(again, same)


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights(tmp_path: Any) -> None:
    kind = "lvp-m3"
    settings = SETTINGS.model_copy(update={"steps": 14, "eval_steps": 4, "batch_size": 4, "dropout": 0.3})
    train(kind, AMBIGUOUS, PLAIN, Noise(), settings, tmp_path / "whole")

    def killed(step: int, steps: int, loss: float) -> None:
        if step == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(kind, AMBIGUOUS, PLAIN, Noise(), settings, tmp_path / "twice", progress=killed)
    assert not (tmp_path / "twice").exists()
    steps: list[int] = []
    train(kind, AMBIGUOUS, PLAIN, Noise(), settings, tmp_path / "twice", progress=lambda s, of, loss: steps.append(s))
    assert steps[0] == 9  # after the checkpoint of step 8
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "twice" / WEIGHTS).read_bytes()
    logs = [read_json(tmp_path / name / MANIFEST, CLASSIC)["log"] for name in ("whole", "twice")]
    assert logs[0] == logs[1]
    assert not (tmp_path / "twice.unfinished").exists()
    other = settings.model_copy(update={"seed": 1})  # a checkpoint of other settings is not gone on from
    with pytest.raises(KeyboardInterrupt):
        train(kind, AMBIGUOUS, PLAIN, Noise(), settings, tmp_path / "third", progress=killed)
    steps.clear()
    train(kind, AMBIGUOUS, PLAIN, Noise(), other, tmp_path / "third", progress=lambda s, of, loss: steps.append(s))
    assert steps[0] == 1
    first, third = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "third"))
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_training_ends_where_dev_gets_no_better(tmp_path: Any) -> None:
    dev = [replace(e, target=other.target) for e, other in zip(PLAIN, PLAIN[::-1], strict=True)]  # all wrong
    settings = SETTINGS.model_copy(update={"steps": 400, "eval_steps": 10, "patience": 2})
    system = train("text-transformer", PLAIN, dev, Noise(), settings, tmp_path / "made")
    facts = read_json(tmp_path / "made" / MANIFEST, CLASSIC)
    assert facts["steps"] == facts["best_step"] + 20 < 400
    looked = min(line["dev_loss"] for line in facts["log"])
    tokens = sum(len(system.vocabulary.target(e.target)) for e in dev)
    assert facts["dev_loss"] == pytest.approx(looked, abs=1e-5)
    assert facts["dev_loss"] == pytest.approx(sum(system.nll(dev)) / tokens, rel=1e-5)


def test_mistakes_are_said(trained: Any, tmp_path: Any) -> None:
    system, _ = trained["gated-fusion"]
    with pytest.raises(UserError, match="'gated' is not known.*gated-fusion"):
        train("gated", AMBIGUOUS, [], Noise(), SETTINGS, tmp_path / "x")
    with pytest.raises(UserError, match="no training example has one"):
        train("lvp-m3", PLAIN, [], Noise(), SETTINGS, tmp_path / "x")
    with pytest.raises(UserError, match="has no training examples"):
        train("lvp-m3", [], [], Noise(), SETTINGS, tmp_path / "x")
    with pytest.raises(UserError, match="'tr' is not known to this system.*de, fr"):
        system.translate([replace(PLAIN[0], target_lang="tr")])
    with pytest.raises(UserError, match="a ocr example gives none"):
        system.nll([replace(AMBIGUOUS[0], task="ocr")])
    with pytest.raises(UserError, match="multiple of twice the heads"):
        ClassicSettings(width=30, heads=4)
    assert not list(tmp_path.iterdir())
    assert KINDS == METHODS  # what a recipe may name


# ---- what a frozen tower sees ---------------------------------------------------------------------------------------


def scenes(count: int) -> list[Example]:
    return scene_examples("train", count, [Pair.parse("en-de")], 0)


def test_features_are_computed_once_and_shared_through_a_folder(tmp_path: Any) -> None:
    images = [e.images[0] for e in scenes(4)]
    first = TowerFeatures(tokens=9, cache=tmp_path)
    found = first(images)
    assert found.shape == (len(images), 9, 160)
    assert found.dtype == torch.float32
    assert len({tuple(row.flatten().tolist()) for row in found}) == len(set(images))
    shards = list(tmp_path.rglob("*.safetensors"))
    assert len(shards) == 1
    second = TowerFeatures(tokens=9, cache=tmp_path, model="embedded")
    assert torch.equal(second(images[::-1]).flip(0), found)
    assert second._tower is None  # nothing was computed
    shards[0].write_bytes(b"cut")
    third = TowerFeatures(tokens=9, cache=tmp_path)
    assert torch.equal(third(images), found)  # a damaged one is made again
    assert torch.equal(TowerFeatures(tokens=9)(images), found)
    with pytest.raises(UserError, match="does not exist"):
        third([tmp_path / "none.png"])


def test_the_embedded_tower_gives_what_its_connector_reads() -> None:
    from neuroglot.data.image import open_image
    from neuroglot.models.load import load_model, load_processor

    image = scenes(4)[0].images[0]
    model, processor = load_model("embedded"), load_processor("embedded")
    pixels = processor.image_processor(images=[open_image(image)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        seen = model.model.vision_tower(pixels).last_hidden_state[:, 1:]
    assert torch.allclose(TowerFeatures(tokens=100)([image]), seen, atol=2e-2, rtol=1e-2)  # half precision
    grid = seen.reshape(1, 10, 10, -1)[:, :5, :5].mean((1, 2))
    assert torch.allclose(TowerFeatures(tokens=4)([image])[:, 0], grid, atol=2e-2, rtol=1e-2)


def test_of_a_whole_model_only_the_tower_is_kept() -> None:
    features = TowerFeatures(tokens=4)
    assert features([scenes(4)[0].images[0]]).device.type == "cpu"
    tower = features._tower
    assert tower is not None
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert {p.device.type for p in tower.model.parameters()} == {here.type}
    assert {name.partition(".")[0] for name, _ in tower.model.named_parameters()} == {
        "vision_tower", "multi_modal_projector"
    }  # fmt: skip


def test_a_vision_model_by_folder_is_a_tower_too(tmp_path: Any) -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                              image_size=32, patch_size=8)  # fmt: skip
    CLIPVisionModel(config).save_pretrained(tmp_path)
    LlavaImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    features = TowerFeatures(tower=str(tmp_path), tokens=64)
    found = features([e.images[0] for e in scenes(4)])
    assert found.shape[1:] == (16, 16)  # 4 x 4 patches, without the class token
    assert features.describe()["tower"] == str(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded as a vision model"):
        TowerFeatures(tower=str(tmp_path / "cell"))([scenes(4)[0].images[0]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.turns
def test_scenes_are_told_apart_by_their_pictures(tmp_path: Any, kind: str) -> None:
    """On the embedded corpus, where every sentence occurs with both readings, and with the embedded tower."""
    examples = scene_examples("train", 16, [Pair.parse("en-de"), Pair.parse("en-fr")], 0)
    size = {"width": 64, "inner": 128, "layers": 2, "pieces": 600}
    settings = SETTINGS.model_copy(update={**size, "lr": 3e-3, "steps": 300, "eval_steps": 300})
    system = train(kind, examples, [], TowerFeatures(tokens=25), settings, tmp_path / kind)
    answers = system.translate(examples)
    assert answers == [e.target for e in examples]
    sources: dict[Any, list[Example]] = {}
    for one in examples:
        sources.setdefault((one.source, one.target_lang), []).append(one)
    swapped = [replace(a, images=b.images) for a, b in sources.values()]
    other = system.translate(swapped)
    assert [answer == a.alternatives[0] for answer, (a, _) in zip(other, sources.values(), strict=True)].count(
        True
    ) == len(other)
