"""The table of model families: the modules of the vision tower, the connector and the language model of each.

A new family is one row. Prefixes are compared with full module names, component by component, and the longest match
wins, because Qwen's connector (`visual.merger`) is inside the vision tower. The prefix `model.` of wrappers is left
out, so that a row fits both the base model and its `ForConditionalGeneration`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import nn

from neuroglot.errors import UserError, nearest

PARTS = ("vision", "connector", "language")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Family:
    """The parts of the models of one `config.model_type`.

    Attributes:
        model_type: value in the transformers config.
        vision: module prefixes of the image encoder.
        connector: module prefixes of the connector, which maps image features into the language model.
        language: module prefixes of the language model, including its head.
        image_token: the config attribute with the id of the image placeholder token; None if unknown.
        vision_rows: how the vision part's rows map to samples. `even`: each image (or tile, or crop) has the same
            number of placeholder tokens; `tiles`: images are cut into tiles and put together again, so that their
            sizes give the numbers of rows and tokens; `packed`: the patches of all images are on one axis.
        bare: parameters that are used as a layer, with the axis of their neurons: 1 is [inputs, neurons]. The output
            of the module that has one must be the product with it.
        guessed: whether the row is guessed from module names and not from the table.
    """

    model_type: str
    vision: tuple[str, ...]
    connector: tuple[str, ...]
    language: tuple[str, ...] = ("language_model", "lm_head")
    image_token: str | None = "image_token_id"
    vision_rows: Literal["even", "tiles", "packed"] = "even"
    bare: tuple[tuple[str, int], ...] = ()
    guessed: bool = False

    def prefixes(self, part: str) -> tuple[str, ...]:
        """Return the module prefixes of a part."""
        return {"vision": self.vision, "connector": self.connector, "language": self.language}[part]

    def part_of(self, module: str) -> str | None:
        """Return the part that a module belongs to by the longest matching prefix, or None.

        Examples:
            >>> FAMILIES["qwen3_vl"].part_of("model.visual.merger.linear_fc1")
            'connector'
        """
        name = module.removeprefix("model.")
        matches = [
            (len(prefix), part)
            for part in PARTS
            for prefix in self.prefixes(part)
            if name == prefix or name.startswith(prefix + ".")
        ]
        return max(matches)[1] if matches else None


_TEXT_MODEL = ("text_model", "lm_head")
_TOWER, _PROJECTOR = ("vision_tower",), ("multi_modal_projector",)

_ROWS = (
    Family("llava", _TOWER, _PROJECTOR),
    Family("llava_next", _TOWER, _PROJECTOR, vision_rows="tiles"),
    Family("llava_onevision", _TOWER, _PROJECTOR, vision_rows="tiles"),
    Family("qwen2_vl", ("visual",), ("visual.merger",), vision_rows="packed"),
    Family("qwen2_5_vl", ("visual",), ("visual.merger",), vision_rows="packed"),
    Family("qwen3_vl", ("visual",), ("visual.merger", "visual.deepstack_merger_list"), vision_rows="packed"),
    Family("internvl", _TOWER, _PROJECTOR),
    Family("idefics3", ("vision_model",), ("connector",), _TEXT_MODEL),
    Family("smolvlm", ("vision_model",), ("connector",), _TEXT_MODEL),
    Family("paligemma", _TOWER, _PROJECTOR),
    Family("gemma3", _TOWER, _PROJECTOR, bare=(("multi_modal_projector.mm_input_projection_weight", 1),)),
    Family("mistral3", _TOWER, _PROJECTOR, vision_rows="packed"),
)

FAMILIES = {row.model_type: row for row in _ROWS}


def family_of(model: nn.Module) -> Family:
    """Return the family of a transformers model: set by `set_parts`, from the table, or a guess, which is logged once.

    Raises:
        UserError: it is not in the table, and a part cannot be recognised by its name.
    """
    known = getattr(model, "neuroglot_family", None)
    if isinstance(known, Family):
        return known
    model_type = _type_of(model)
    family = FAMILIES.get(model_type)
    if family is None:
        family = _guess(model, model_type, {})
        _tell(family)
    return family


def set_parts(model: nn.Module, parts: Mapping[str, Sequence[str]]) -> Family:
    """Set the parts of a model, if it is not in the table or the guess is wrong.

    Args:
        model: a transformers model.
        parts: part -> module prefixes, with or without a leading `model.`; other parts are unchanged.

    Raises:
        UserError: an unknown part, a prefix that is no module with a layer in it, or a prefix of two parts.
    """
    names = {name.removeprefix("model.") for name in _linear_names(model)}
    modules = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    by_part: dict[str, tuple[str, ...]] = {}
    for part, prefixes in parts.items():
        if part not in PARTS:
            raise UserError(f"model.parts names part {part!r}; {nearest(part, PARTS)}")
        by_part[part] = tuple(prefix.removeprefix("model.") for prefix in prefixes)
        for prefix in by_part[part]:
            if prefix not in modules:
                # the nearest of the names that are not blocks
                near = nearest(prefix, [m for m in modules if m.count(".") < max(2, prefix.count(".") + 1)])
                raise UserError(f"model.parts: {part} names {prefix!r}, where this model has no layer; {near}")
            other = next((p for p in by_part if p != part and prefix in by_part[p]), None)
            if other is not None:
                raise UserError(f"model.parts: {prefix!r} is given to {other} and to {part}; expected one part each")
    known = FAMILIES.get(_type_of(model)) or _guess(model, _type_of(model), by_part)
    claimed = {prefix for prefixes in by_part.values() for prefix in prefixes}
    for part in PARTS:
        by_part.setdefault(part, tuple(prefix for prefix in known.prefixes(part) if prefix not in claimed))
    vision, connector, language = (by_part[part] for part in PARTS)
    family = replace(known, vision=vision, connector=connector, language=language, guessed=False)
    model.neuroglot_family = family  # type: ignore[assignment]
    return family


def _type_of(model: nn.Module) -> str:
    return getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__


def _linear_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


# The order matters: `vision_projector` is a connector.
_NAMES = (
    ("connector", re.compile(r"project(or|ion)|connector|merger|align|adapter|resampler|perceiver|abstractor|bridge")),
    ("vision", re.compile(r"vision|visual|image_encoder|(^|_)vit($|_)|siglip|clip")),
    ("language", re.compile(r"language|text_model|text_decoder|llm|lm_head|(^|_)decoder$")),
)
_DEPTH = 3  # deeper names are blocks, where `projection` or `adapter` mean something else


def _guess(model: nn.Module, model_type: str, known_parts: Mapping[str, Sequence[str]]) -> Family:
    """Return a family guessed from the names of a model's modules; parts in `known_parts` may be missing."""
    names = {name.removeprefix("model.") for name in _linear_names(model)}
    by_part: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in sorted(names):
        components = name.split(".")
        seen: set[str] = set()
        for depth, component in enumerate(components[:_DEPTH], start=1):
            part = next((part for part, pattern in _NAMES if pattern.search(component.lower())), None)
            # The only part that may be inside another one is a connector in the vision tower.
            if part is None or part in seen or (seen and part != "connector") or "language" in seen:
                continue
            seen.add(part)
            prefix = ".".join(components[:depth])
            if prefix not in by_part[part]:
                by_part[part].append(prefix)
    for part, prefixes in by_part.items():
        if not prefixes and part not in known_parts:
            tops = sorted({".".join(name.split(".")[:2]) for name in names})
            raise UserError(
                f"model type {model_type!r} is not in the table of families and its {part} part cannot be recognised "
                f"among {', '.join(tops[:8]) or 'no linear layers'}; expected one of {', '.join(FAMILIES)}; say where "
                f"it is with model.parts={{{part}: [PREFIX]}} in the recipe, or with --{part} PREFIX of inspect"
            )
    config = getattr(model, "config", None)
    token = next((name for name in ("image_token_id", "image_token_index") if hasattr(config, name)), None)
    tower = getattr(config, "vision_config", None)
    # A tower whose config has the number of merged neighbours gets patches, not images.
    rows: Literal["even", "packed"] = "packed" if hasattr(tower, "spatial_merge_size") else "even"
    vision, connector, language = (tuple(by_part[part]) for part in PARTS)
    return Family(model_type, vision, connector, language, token, rows, guessed=True)


def described(family: Family) -> str:
    """Return the prefixes of a family's parts in one line."""
    return ", ".join(f"{part} {' '.join(family.prefixes(part)) or 'nowhere'}" for part in PARTS)


@lru_cache
def _tell(family: Family) -> None:
    _log.warning(
        "model type %r is not in the table of families; guessed by name: %s; if that is wrong, say "
        "model.parts={vision: [PREFIX], ...} in the recipe, or --vision PREFIX and so on to `neuroglot inspect`",
        family.model_type,
        described(family),
    )


def image_token_id(model: nn.Module, family: Family | None = None) -> int | None:
    """Return the id of the image placeholder token; None if the model has none."""
    family = family or family_of(model)
    value = getattr(getattr(model, "config", None), family.image_token, None) if family.image_token else None
    return int(value) if isinstance(value, int | torch.Tensor) else None
