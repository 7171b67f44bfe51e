"""The table of model families: where the vision tower, the connector and the language model sit in each.

A new family is one row. Prefixes are compared with full module names, component by component, and the longest match
wins, because Qwen keeps its connector (`visual.merger`) inside the vision tower. The wrapper prefix `model.` is left
out, so a row serves the bare model and its `ForConditionalGeneration` alike.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from neuroglot.errors import UserError

PARTS = ("vision", "connector", "language")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Family:
    """Where the parts of one `config.model_type` are.

    Attributes:
        model_type: as in the transformers config.
        vision: module prefixes of the image encoder.
        connector: module prefixes of what maps image features into the language model.
        language: module prefixes of the language model, its head included.
        image_token: the config attribute that holds the id of the image placeholder token; None if unknown.
        vision_rows: how the vision part's activations map to samples. `even`: the first axis is images (or tiles) and
            each stands for the same number of placeholder tokens, so that placeholders say whose it is; `tiles`: the
            first axis is tiles, whose number per sample the batch must state (`images_per_sample`); `packed`: all
            tokens of all images lie on one axis, which needs a function of the inputs that no row has yet.
    """

    model_type: str
    vision: tuple[str, ...]
    connector: tuple[str, ...]
    language: tuple[str, ...] = ("language_model", "lm_head")
    image_token: str | None = "image_token_id"
    vision_rows: Literal["even", "tiles", "packed"] = "even"

    def prefixes(self, part: str) -> tuple[str, ...]:
        """Return the module prefixes of a part."""
        return {"vision": self.vision, "connector": self.connector, "language": self.language}[part]

    def part_of(self, module: str) -> str | None:
        """Return the part that a module belongs to by the longest matching prefix, or None.

        >>> FAMILIES["qwen3_vl"].part_of("model.visual.merger.linear_fc1")
        'connector'
        """
        name = module.removeprefix("model.")
        found = [
            (len(prefix), part)
            for part in PARTS
            for prefix in self.prefixes(part)
            if name == prefix or name.startswith(prefix + ".")
        ]
        return max(found)[1] if found else None


_TEXT_MODEL = ("text_model", "lm_head")

_ROWS = (
    Family("llava", ("vision_tower",), ("multi_modal_projector",)),
    Family("llava_next", ("vision_tower",), ("multi_modal_projector",), vision_rows="tiles"),
    Family("qwen2_5_vl", ("visual",), ("visual.merger",), vision_rows="packed"),
    Family("qwen3_vl", ("visual",), ("visual.merger", "visual.deepstack_merger_list"), vision_rows="packed"),
    Family("internvl", ("vision_tower",), ("multi_modal_projector",)),
    Family("idefics3", ("vision_model",), ("connector",), _TEXT_MODEL),
    Family("smolvlm", ("vision_model",), ("connector",), _TEXT_MODEL),
    Family("paligemma", ("vision_tower",), ("multi_modal_projector",)),
    Family("gemma3", ("vision_tower",), ("multi_modal_projector",)),
)

FAMILIES = {row.model_type: row for row in _ROWS}


def family_of(model: nn.Module) -> Family:
    """Return the family of a transformers model: its row, or a guess from the module names, which is logged.

    Raises:
        UserError: no row, and a part cannot be recognised by its name.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None) or type(model).__name__
    return FAMILIES.get(model_type) or _guess(model, model_type)


# The order matters: `vision_projector` is a connector.
_NAMES = (
    ("connector", re.compile(r"project(or|ion)|connector|merger|align|adapter|resampler|perceiver|abstractor|bridge")),
    ("vision", re.compile(r"vision|visual|image_encoder|(^|_)vit($|_)|siglip|clip")),
    ("language", re.compile(r"language|text_model|text_decoder|llm|lm_head|(^|_)decoder$")),
)
_DEPTH = 3  # deeper names are blocks, where `projection` or `adapter` mean something else


def _guess(model: nn.Module, model_type: str) -> Family:
    names = {name.removeprefix("model.") for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in sorted(names):
        components = name.split(".")
        seen: set[str] = set()
        for depth, component in enumerate(components[:_DEPTH], start=1):
            part = next((part for part, pattern in _NAMES if pattern.search(component.lower())), None)
            # Inside a part, the only other part that may begin is a connector in the vision tower.
            if part is None or part in seen or (seen and part != "connector") or "language" in seen:
                continue
            seen.add(part)
            prefix = ".".join(components[:depth])
            if prefix not in found[part]:
                found[part].append(prefix)
    for part, prefixes in found.items():
        if not prefixes:
            tops = sorted({".".join(name.split(".")[:2]) for name in names})
            raise UserError(
                f"model type {model_type!r} is not in the table of families and its {part} part cannot be recognised "
                f"among {', '.join(tops[:8]) or 'no linear layers'}; expected one of {', '.join(FAMILIES)}; "
                "add a row to neuroglot.models.families"
            )
    config = getattr(model, "config", None)
    token = next((name for name in ("image_token_id", "image_token_index") if hasattr(config, name)), None)
    _log.warning("model type %r is not in the table of families; guessed by name: %s", model_type, found)
    vision, connector, language = (tuple(found[part]) for part in PARTS)
    return Family(model_type, vision, connector, language, token)


def image_token_id(model: nn.Module, family: Family | None = None) -> int | None:
    """Return the id of the image placeholder token, or None where the model has none."""
    family = family or family_of(model)
    value = getattr(getattr(model, "config", None), family.image_token, None) if family.image_token else None
    return int(value) if isinstance(value, int | torch.Tensor) else None
