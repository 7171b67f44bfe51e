"""Run folders made up from nothing, in the formats of the stages, so that the report is tested without any of them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from neuroglot.evaluation import write_hypotheses, write_scores
from neuroglot.file_format import LAYERS, TRAINING, write_json
from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.pair import Condition
from neuroglot.selection import Selection

LANGUAGES = ("cs", "de", "fr", "hi", "lv", "tr")
PAIRS = tuple(f"en-{language}" for language in LANGUAGES)
SIGNS = {
    "Open from Monday to Friday": {
        "de": "Geöffnet von Montag bis Freitag",
        "fr": "Ouvert du lundi au vendredi",
        "hi": "सोमवार से शुक्रवार तक खुला",
        "cs": "Otevřeno od pondělí do pátku",
        "lv": "Atvērts no pirmdienas līdz piektdienai",
        "tr": "Pazartesiden cumaya kadar açık",
    },
    "8 March 2026 at 5 pm": {
        "de": "8. März 2026 um 17 Uhr",
        "fr": "8 mars 2026 à 17 h",
        "hi": "8 मार्च 2026 शाम 5 बजे",
        "cs": "8. března 2026 v 17 hodin",
        "lv": "2026. gada 8. marts plkst. 17",
        "tr": "8 Mart 2026 saat 17",
    },
    "Price: 12.50 <euros> & more": {
        "de": "Preis: 12,50 <Euro> & mehr",
        "fr": "Prix : 12,50 <euros> & plus",
        "hi": "मूल्य: 12.50 <यूरो> & अधिक",
        "cs": "Cena: 12,50 <eur> & více",
        "lv": "Cena: 12,50 <eiro> & vairāk",
        "tr": "Fiyat: 12,50 <avro> & fazlası",
    },
}


def layers_of(blocks: int) -> tuple[Layer, ...]:
    names = [
        (f"model.vision_tower.vision_model.encoder.layers.{block}.{matrix}", "vision", 24)
        for block in range(blocks)
        for matrix in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "mlp.fc1")
    ]
    names += [(f"model.multi_modal_projector.linear_{place}", "connector", 32) for place in (1, 2)]
    names += [
        (f"model.language_model.layers.{block}.{matrix}", "language", 40)
        for block in range(blocks)
        for matrix in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj")
    ]
    names.append(("model.vision_tower.vision_model.unused", "vision", 8))
    return tuple(Layer(name, part, neurons, 16, True) for name, part, neurons in names)


def make_profile(layers: tuple[Layer, ...], pairs: tuple[str, ...] = PAIRS, seed: int = 0) -> Profile:
    rng = np.random.default_rng(seed)
    conditions = [f"image_translation:{pair}" for pair in pairs] + ["ocr:en-en"]
    sums = {}
    for layer in layers:
        scale = rng.lognormal(sigma=0.7)
        own = scale * rng.lognormal(sigma=0.8, size=(1, layer.neurons))
        own = own * rng.lognormal(sigma=0.15, size=(len(conditions), 1))
        own = own * rng.lognormal(sigma=rng.uniform(0.15, 0.5), size=(len(conditions), layer.neurons))
        own *= not layer.name.endswith("unused")
        sums[layer.name] = torch.from_numpy(50 * own)[:, None, None, :]
    return Profile(
        model="tiny",
        fingerprint="0",
        layers=layers,
        conditions=tuple(Condition.parse(text) for text in conditions),
        scores=("taylor_token",),
        classes=("all",),
        counts=torch.full((len(conditions), 1), 50),
        sums=sums,
        squares={name: value**2 / 25 for name, value in sums.items()},
        share_sums={name: value * 0 for name, value in sums.items()},
        share_squares={name: value * 0 for name, value in sums.items()},
    )


def make_selection(layers: tuple[Layer, ...]) -> Selection:
    rows, chosen = {}, {}
    for layer in layers[::2]:
        order = torch.randperm(layer.neurons, generator=torch.Generator().manual_seed(1))
        groups = {frozenset(PAIRS): order[:8]}
        groups |= {frozenset([pair]): order[8 + place : 9 + place] for place, pair in enumerate(PAIRS)}
        rows[layer.name] = {group: index.sort().values for group, index in groups.items()}
        chosen[layer.name] = {"part": layer.part, "neurons": layer.neurons}
    meta = {"method": "mnaft", "options": {"score": "taylor_token", "token_class": "all"}, "chosen": chosen}
    return Selection(PAIRS, rows, meta)


def figures_of(level: float, rng: np.random.Generator, pairs: tuple[str, ...], nll: bool = True) -> dict:
    scores = {}
    for pair in pairs:
        bleu = float(np.clip(level + rng.normal(0, 4), 0, 99))
        own = float(0.4 + (100 - bleu) / 60) if nll else None
        scores[pair] = {"bleu": bleu, "chrf": min(bleu + 8, 99.5), "exact": max(bleu - 12, 0), "nll": own, "n": 50}
    mean = {
        key: None if key == "nll" and not nll else float(np.mean([row[key] for row in scores.values()]))
        for key in ("bleu", "chrf", "exact", "nll")
    }
    return {**scores, "average": {**mean, "n": 50 * len(pairs)}}


LEVELS = {
    "base": {
        "image_translation": 4,
        "image_translation_heldout": 2,
        "ocr": 88,
        "text_translation": 86,
        "describe": 91,
    },
    "cascade": {"image_translation": 71, "image_translation_heldout": 24},
    "mnaft": {
        "image_translation": 78,
        "image_translation_heldout": 19,
        "ocr": 84,
        "text_translation": 83,
        "describe": 70,
    },
}


def make_scores(folder: Path, systems=("base", "cascade", "mnaft")) -> None:
    rng = np.random.default_rng(0)
    scores = {
        system: {
            split: figures_of(level, rng, ("en-en",) if split in ("ocr", "describe") else PAIRS, system != "cascade")
            for split, level in LEVELS[system].items()
        }
        for system in systems
    }
    write_scores(folder / "scores.json", scores, dict.fromkeys(systems, 21.5))


def sign_image(text: str, place: int) -> str:
    image = Image.new("RGB", (240, 120), ["#f5f0e0", "#1c4a7a", "#dfe8df"][place % 3])
    ImageDraw.Draw(image).multiline_text(
        (18, 34),
        text.replace(" ", "\n", 1) if len(text) > 20 else text,
        fill=["#222", "#fff", "#611"][place % 3],
        font_size=20,
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def make_run(folder: Path, blocks: int = 2) -> Path:
    """Every file of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = layers_of(blocks)
    make_scores(folder)
    make_profile(layers).save(folder / "profile.safetensors")
    make_selection(layers).save(folder / "selection.safetensors")
    (folder / "recipe.yaml").write_text("name: demo\nmethod: mnaft  # <neurons>\nmodel: tiny\n", encoding="utf-8")
    similarity = {"method": "similarity", "estimator": "lora", "similarity": {layers[0].name: {"en-de": 0.9}}}
    write_json(folder / "layers.json", LAYERS, {**similarity, "cost": {"seconds": 12.5}})
    parts = {
        "vision": {"layers": 6, "neurons": 84, "eligible_neurons": 240, "parameters": 1428, "all_parameters": 40000},
        "connector": {"layers": 1, "neurons": 14, "eligible_neurons": 64, "parameters": 238, "all_parameters": 3000},
        "language": {"layers": 5, "neurons": 70, "eligible_neurons": 400, "parameters": 1190, "all_parameters": 90000},
    }
    training = {"method": "mnaft", "parts": parts, "seconds": 97.0, "steps": 600}
    totals = {"trainable_parameters": 2856, "total_parameters": 150000}
    write_json(folder / "training.json", TRAINING, training | totals)
    rng = np.random.default_rng(0)
    log = [
        {"step": step, "loss": float(0.3 + 3 * np.exp(-step / 120) * rng.lognormal(sigma=0.2)), "lr": 1e-3}
        for step in range(5, 601, 5)
    ]
    (folder / "train_log.jsonl").write_text(lines([*log, {"step": 600, "seconds": 97.0}]))
    gallery = [
        {
            "png_base64": sign_image(source, place),
            "source": source,
            "pair": f"en-{language}",
            "reference": targets[language],
            "before": "" if place == 1 else source.lower(),
            "after": targets[language] if place != 2 else targets[language][:-3],
        }
        for place, (source, targets) in enumerate(SIGNS.items())
        for language in ("de", "hi")
    ]
    (folder / "gallery.jsonl").write_text(lines(gallery), encoding="utf-8")
    rows = [
        {
            "system": system,
            "split": "image_translation",
            "task": "image_translation",
            "pair": f"en-{language}",
            "item": f"sign{place}",
            "index": place * 6 + number,
            "source": source,
            "reference": targets[language],
            "hypothesis": source if system == "base" and place else targets[language],
            "nll": 1.0,
        }
        for system in ("base", "mnaft")
        for place, (source, targets) in enumerate(SIGNS.items())
        for number, language in enumerate(LANGUAGES)
    ]
    write_hypotheses(folder / "hypotheses.jsonl", rows)
    return folder


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """The helpers above, for tests that make a folder of their own."""
    return SimpleNamespace(
        pairs=PAIRS,
        signs=SIGNS,
        layers=layers_of,
        profile=make_profile,
        selection=make_selection,
        scores=make_scores,
    )


@pytest.fixture(scope="module")
def full_run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture
def bare_run(tmp_path) -> Path:
    folder = tmp_path / "bare"
    folder.mkdir()
    make_scores(folder)
    return folder
