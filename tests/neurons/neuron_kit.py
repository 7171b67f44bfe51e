"""A tiny random LLaVA and raw batches for it; and profiles made up from numbers, for the selection."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.pair import Condition

IMAGE, PAD, PLACES = 5, 0, 9  # placeholder id, padding id, placeholders per image (3 x 3 patches, CLS dropped)


def make_llava(feature_layer: int = -1, dtype: torch.dtype = torch.float64, seed: int = 0):
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=12, patch_size=4
    )
    text = LlamaConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=60, pad_token_id=PAD, tie_word_embeddings=False, max_position_embeddings=128,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    config.vision_feature_layer = feature_layer
    model = LlavaForConditionalGeneration(config).double().eval()
    with torch.no_grad():  # the usual 0.02 leaves importances near nothing
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.25)
            elif parameter.abs().max() == 0:
                parameter.normal_(0, 0.1)
    return model.to(dtype)


def make_samples(n: int, seed: int = 0, images: int | list[int] = 1, dtype: torch.dtype = torch.float64) -> list[dict]:
    """Samples of different prompt (instruction) and target lengths: ids, labels and pixels [images, 3, 12, 12]."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda count: torch.randint(6, 60, (count,), generator=g).tolist()  # noqa: E731
    samples = []
    for i in range(n):
        held = images if isinstance(images, int) else images[i]
        prompt, target = draw(3 + 2 * (i % 3)), draw(2 + i % 4)
        ids = [1, *([IMAGE] * PLACES * held), *prompt, *target]
        labels = [-100] * (len(ids) - len(target)) + target
        pixels = torch.randn(held, 3, 12, 12, generator=g, dtype=torch.float64).to(dtype)
        samples.append({"ids": ids, "labels": labels, "pixels": pixels})
    return samples


def collate(samples: list[dict], side: str = "right", filler: int = PAD) -> dict:
    width = max(len(s["ids"]) for s in samples)

    def pad(values: list[int], value: int) -> list[int]:
        rest = [value] * (width - len(values))
        return rest + values if side == "left" else values + rest

    inputs = {
        "input_ids": torch.tensor([pad(s["ids"], filler) for s in samples]),
        "attention_mask": torch.tensor([pad([1] * len(s["ids"]), 0) for s in samples]),
        "labels": torch.tensor([pad(s["labels"], -100) for s in samples]),
    }
    if any(len(s["pixels"]) for s in samples):
        inputs["pixel_values"] = torch.cat([s["pixels"] for s in samples])
    return inputs


def _keep(outputs: dict, name: str, module, args, output) -> None:
    output.retain_grad()
    outputs[name] = output


def brute_force(model, samples: list[dict], layers, token_class: str = "all") -> dict[str, dict[str, torch.Tensor]]:
    """Score -> layer -> [samples, N] by plain autograd: one unpadded sample at a time, retain_grad on each output."""
    out: dict[str, dict[str, list]] = {}
    for sample in samples:
        inputs = collate([sample])
        labels = inputs.pop("labels")
        outputs = {}
        hooks = [
            model.get_submodule(layer.name).register_forward_hook(partial(_keep, outputs, layer.name))
            for layer in layers
        ]
        model(**inputs, labels=labels).loss.backward()
        for hook in hooks:
            hook.remove()
        rows = {x.name: model.get_submodule(x.name).weight.grad for x in layers}
        model.zero_grad()
        for layer in layers:
            output = outputs[layer.name]
            a = output.detach().reshape(-1, layer.neurons)
            g = torch.zeros_like(a) if output.grad is None else output.grad.reshape(-1, layer.neurons)
            if layer.part == "language":
                ids = inputs["input_ids"][0]
                image, target = ids == IMAGE, labels[0] != -100
                mask = {"all": ids >= 0, "image": image, "target": target, "prompt": ~image & ~target}[token_class]
                a, g = a[mask], g[mask]
            values = {
                "taylor_token": (a * g).abs().mean(0),
                "taylor_sample": (a * g).mean(0).abs(),
                "gradient": g.abs().mean(0),
                "activation": a.abs().mean(0) * bool(g.any()),
                "activation_probability": (a > 0).double().mean(0) * bool(g.any()),
            }
            if token_class == "all":
                weight = rows[layer.name]
                values["row_gradient"] = a[0] * 0 if weight is None else weight.norm(dim=1)
            for score, value in values.items():
                out.setdefault(score, {}).setdefault(layer.name, []).append(value)
    return {s: {n: torch.stack(v) for n, v in by_layer.items()} for s, by_layer in out.items()}


def shares(each: dict[str, torch.Tensor], layers) -> dict[str, torch.Tensor]:
    """Layer -> [samples, N] divided by each sample's sum over the part."""
    total = {part: sum(each[x.name].sum(1, keepdim=True) for x in layers if x.part == part)
             for part in {layer.part for layer in layers}}  # fmt: skip
    return {layer.name: each[layer.name] / total[layer.part].where(total[layer.part] != 0, 1) for layer in layers}


def assert_relatively_close(
    found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4, what: str = ""
) -> None:
    """Compare neuron by neuron: an absolute tolerance says nothing where importances are 1e-6."""
    alive = expected != 0
    assert bool((found[~alive] == 0).all()), f"{what}: importance where there is none"
    error = ((found - expected).abs()[alive] / expected[alive].abs()).max() if alive.any() else torch.tensor(0.0)
    assert float(error) <= tolerance, f"{what}: relative error {float(error):.2e}"


def make_profile(
    means: dict[str, torch.Tensor],
    conditions: list[str],
    parts: dict[str, str] | None = None,
    samples: int = 10,
    **scores,
) -> Profile:  # fmt: skip
    """A profile of samples all alike whose `taylor_token` means are given: layer -> [K, N]; more scores by name."""
    kinds = {"taylor_token": means, **scores}
    parts = parts or {}
    layers = tuple(Layer(n, parts.get(n, "language"), x.shape[1], 4, False) for n, x in means.items())
    mean = {n: torch.stack([kind[n].double() for kind in kinds.values()], 1).unsqueeze(2) for n in means}
    total = {part: sum(x.sum(3, keepdim=True) for n, x in mean.items() if parts.get(n, "language") == part)
             for part in {layer.part for layer in layers}}  # fmt: skip
    share = {layer.name: mean[layer.name] / total[layer.part].where(total[layer.part] != 0, 1) for layer in layers}
    return Profile(
        model="made-up", fingerprint="f", layers=layers, conditions=tuple(map(Condition.parse, conditions)),
        scores=tuple(kinds), classes=("all",), counts=torch.full((len(conditions), 1), samples),
        sums={n: x * samples for n, x in mean.items()}, squares={n: x**2 * samples for n, x in mean.items()},
        share_sums={n: x * samples for n, x in share.items()},
        share_squares={n: x**2 * samples for n, x in share.items()},
        static={"weight": {n: torch.arange(x.shape[1], 0, -1).double() for n, x in means.items()}},
    )  # fmt: skip


def conditions_of(targets: str, task: str = "image_translation", sources: str = "en") -> list[str]:
    return [f"{task}:{s}-{t}" for s, t in itertools.product(sources.split(), targets.split())]


class OverwritingActivation(torch.nn.Module):
    """An activation function that leaves its result in its argument, which is what the layer before it returned."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x.copy_(self.inner(x.clone()))
