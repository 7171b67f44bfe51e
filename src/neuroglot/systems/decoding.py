"""Generation by settings of our own: a checkpoint's generation_config must not change a score.

Notable: transformers fills whatever a call leaves open from `model.generation_config`, such as a repetition penalty,
suppressed tokens or a least length, and not all of them have a value that says "none". So the configuration itself is
exchanged while a model generates, and put back afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

PROTOCOL = ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id")
"""What the model itself is made with, and no choice of whoever decodes."""

SEQ2SEQ = (*PROTOCOL, "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids")
"""The same of a translator with an encoder: languages are tokens that it is forced to begin with, and Marian's padding
is one that it must not say."""


@contextmanager
def own_settings(model: Any, keep: Collection[str] = PROTOCOL) -> Iterator[None]:
    """Let a model generate by what `generate` is told and by nothing else.

    Args:
        model: of transformers, or one of PEFT around it.
        keep: fields of the checkpoint's own generation_config that stay.
    """
    from transformers import GenerationConfig

    modules: list[Any] = list(getattr(model, "modules", list)())  # whatever has a `generate` may stand in for a model
    holders = [module for module in modules if "generation_config" in vars(module)]  # PEFT keeps one too
    theirs = [module.generation_config for module in holders]
    own = next((config for config in theirs if config is not None), GenerationConfig())
    kept = {name: value for name in keep if (value := getattr(own, name, None)) is not None}
    for module in holders:
        module.generation_config = GenerationConfig(**kept)
    try:
        yield
    finally:
        for module, config in zip(holders, theirs, strict=True):
            module.generation_config = config
