"""Peak memory and time of a training step and of a profile, with logits at target positions and at all positions.

    python benchmarks/target_logits.py --json out/target_logits.json

A LLaVA with a small body and the vocabulary of Qwen (151,936), 576 image and 54 text tokens, batch 1, float32. Every
measurement is a process of its own: the peak resident set above the one before the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from neuroglot.models import targets
from neuroglot.models.targets import on_targets
from neuroglot.neurons import profile
from neuroglot.pipeline.folder import watch

VOCABULARY, IMAGE_TOKENS, TEXT_TOKENS, TARGETS, REPEATS = 151_936, 576, 54, 16, 3
IMAGE = VOCABULARY - 1


def work() -> tuple[LlavaForConditionalGeneration, dict[str, torch.Tensor]]:
    """Return the model and a batch."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                              image_size=336, patch_size=14)  # fmt: skip
    text = LlamaConfig(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
                       vocab_size=VOCABULARY, tie_word_embeddings=False)  # fmt: skip
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE))
    ids = torch.cat([torch.full((1, IMAGE_TOKENS), IMAGE), torch.randint(10, 1000, (1, TEXT_TOKENS))], dim=1)
    labels = torch.full_like(ids, -100)
    labels[:, -TARGETS:] = ids[:, -TARGETS:]
    pixels = torch.randn(1, 3, 336, 336)
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "pixel_values": pixels}


def measure(stage: str, some: bool) -> dict[str, float]:
    """Run one stage in this process."""
    model, inputs = work()
    if stage == "train":
        for name, parameter in model.named_parameters():  # as an adapter does: gradients of few weights
            parameter.requires_grad_("down_proj" in name)
        model.train()
        peak, began = watch(), time.perf_counter()
        output = model(**(on_targets(inputs) if some else inputs), use_cache=False)
        output.loss.backward()
        figures = {"loss": float(output.loss), "norm": float(norm(model))}
    else:
        if not some:
            targets_all()
        peak, began = watch(), time.perf_counter()
        made = profile(model, [(inputs, "image_translation:en-de")])
        figures = {"sum": float(sum(x.sum() for x in made.sums.values()))}
    return {**figures, "mib": peak() / 2**20, "seconds": time.perf_counter() - began}


def norm(model: torch.nn.Module) -> torch.Tensor:
    """Return the norm of all gradients."""
    return torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()


def targets_all() -> None:
    """Let the profile compute logits everywhere."""
    from neuroglot.neurons.profiling import importance

    assert importance.keeps_some_logits is targets.keeps_some_logits
    importance.keeps_some_logits = lambda model: False  # type: ignore[assignment]


def main() -> None:
    """Measure each stage both ways, in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("STAGE", "WAY"), help="one measurement, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1] == "targets")))
        return
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for stage in ("train", "profile"):
        ways: dict[str, list[dict[str, float]]] = {"all": [], "targets": []}
        for _ in range(REPEATS):
            for way, made in ways.items():
                command = [sys.executable, __file__, "--one", stage, way]
                made.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        rows[stage] = {w: {k: statistics.median(m[k] for m in made) for k in made[0]} for w, made in ways.items()}
        ratio = rows[stage]["targets"]["mib"] / rows[stage]["all"]["mib"]
        for way, figures in rows[stage].items():
            print(stage, way, " ".join(f"{key} {value:.7g}" for key, value in figures.items()))
        print(f"{stage}: memory {ratio:.3f} of that with all logits")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
