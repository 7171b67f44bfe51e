"""Leaving: a trained adapter becomes a plain model, or a LoRA, for programs that know nothing of this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroglot.config.load import load_recipe
from neuroglot.errors import UserError, nearest
from neuroglot.file_format import ADAPTER, MANIFEST, read_manifest, write_text
from neuroglot.models.load import Parts

FORMATS = ("lora", "rows")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Source:
    """An adapter that is to leave.

    Attributes:
        folder: where it is.
        base: its base model, as models are named on the command line.
        fields: of its configuration.
        parts: where the base's parts are, if the run's recipe had to say so.
    """

    folder: Path
    base: str
    fields: dict[str, Any]
    parts: Parts | None = None

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs it was trained for, as far as it says."""
        return tuple(self.fields.get("pairs") or ())


def find(place: Path, base: str | None = None) -> Source:
    """Find the adapter of a run's folder, or the one in a folder of its own.

    Raises:
        UserError: there is none, it is damaged, or nothing names its base model.
    """
    import json

    if not place.is_dir():
        raise UserError(f"{place} is not a folder; expected an adapter's or a run's, such as runs/demo")
    folder, parts = place, None
    if (place / "recipe.yaml").is_file():
        folder = place / "adapter"
        if (place / "model").is_dir() and not folder.is_dir():
            raise UserError(f"run {place} trained the whole model; {place / 'model'} is a plain model already")
        parts = load_recipe(place / "recipe.yaml").model.parts
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no adapter ({name} is missing); expected what the train stage writes")
    facts = read_manifest(folder, ADAPTER) if (folder / MANIFEST).is_file() else {}
    try:
        fields = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        named = fields.get("base_model_name_or_path")
    except Exception as error:
        raise UserError(f"{folder / 'adapter_config.json'} cannot be read: {error}; save the adapter again") from None
    base = base or facts.get("base") or named
    if not base:
        raise UserError(f"adapter {folder} does not name its base model; give it with --base")
    return Source(folder, str(base), fields, parts)


def merge(
    place: Path,
    out: Path,
    dtype: str | None = None,
    base: str | None = None,
    trust: bool = False,
    scale: float = 1.0,
) -> None:
    """Write a plain Hugging Face folder: the base with the adapter's units in its weights, and its processor.

    Args:
        place: a run's folder, or an adapter's.
        out: where to; it must not hold anything yet.
        dtype: of the weights, `auto` as the base has them; by default that of the training, if it is recorded,
            bfloat16 if it was trained on a quantised base, and `auto` otherwise.
        base: another place of the base model.
        trust: let the model's own code run.
        scale: how much of what was trained is merged, in [0, 1]; see `neuroglot.pipeline.dial`.

    Raises:
        UserError: whatever the user can mend; nothing is written then.
    """
    from neuroglot.pipeline.context import quiet
    from neuroglot.pipeline.dial import check_scale, difference, scale_
    from neuroglot.pipeline.evaluation import with_adapter
    from neuroglot.tuner.adapter import check_free, new_folder

    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"--dtype {dtype!r} is not known; {nearest(dtype, DTYPES)}")
    check_free(out)
    check_scale(scale)
    source = find(place, base)
    if source.fields.get("peft_type") == "NEUROGLOT_PROMPT":
        raise UserError(
            f"adapter {source.folder} is a learned prompt, which stands in front of what a model reads and cannot be "
            "merged into its weights; use the adapter as it is (peft.PeftModel.from_pretrained)"
        )
    quiet()
    from neuroglot.models.load import load_model, load_processor, load_skeleton, on_device

    _check_dense(source, load_skeleton(source.base, trust, source.parts).config)
    processor = load_processor(source.base, trust)
    trained_in = (source.fields.get("trained_on") or {}).get("dtype")
    trained_in = "bfloat16" if source.fields.get("quantised") else trained_in
    plain = on_device(load_model(source.base, dtype or trained_in or "auto", trust, source.parts))
    before = {name: p.detach().clone() for name, p in plain.named_parameters()} if scale != 1 else {}
    model = with_adapter(plain, source.folder, safe_merge=True, base=source.base)
    if scale != 1:
        before = difference(before, model)
        scale_(model, before, scale, {name: p.detach().clone() for name, p in model.named_parameters()})
    with new_folder(out) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
        write_text(part / "README.md", _card(source, model, scale))


def export(
    place: Path, out: Path, form: str, base: str | None = None, trust: bool = False, biases: str = "strict"
) -> None:
    """Write an adapter, or what it trains, in another format.

    Args:
        place: a run's folder, or an adapter's; for `rows`, a run's or a selection's file.
        out: where to; it must not hold anything yet.
        form: `lora`; or `rows`, the selection as text, to a .yaml or .json file.
        base: another place of the base model.
        trust: let the model's own code run.
        biases: `strict` or `everywhere`, see `neuroglot.tuner.export.to_lora`.

    Raises:
        UserError: whatever the user can mend; nothing is written then.
    """
    from neuroglot.pipeline.context import quiet
    from neuroglot.tuner.adapter import check_free
    from neuroglot.tuner.export import export_lora

    if form not in FORMATS:
        raise UserError(f"--format {form!r} is not known; {nearest(form, FORMATS)}")
    check_free(out)
    if form == "rows":
        from neuroglot.selection import is_readable, open_selection

        if not is_readable(out):
            raise UserError(f"{out} must end in .yaml or .json, got suffix {out.suffix!r}; give such a file to write")
        open_selection(place).save(out)
        return
    source = find(place, base)
    quiet()
    from neuroglot.models.load import load_skeleton

    export_lora(source.folder, out, load_skeleton(source.base, trust), biases)


def _check_dense(source: Source, config: Any) -> None:
    """Refuse a base that is stored quantised: merging would round every value of it a second time."""
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(
            f"base {source.base} is stored quantised; expected dense weights to merge into; "
            "give the model that it was made from with --base (and --dtype bfloat16)"
        )


def _card(source: Source, model: Any, scale: float) -> str:
    layout = source.fields.get("layout", {}).values()
    counts = [sum(groups.values()) for groups in layout if isinstance(groups, dict)]
    vectors = sum(len(names) for names in layout if isinstance(names, list))  # biases, or gains of norms
    what = f"{vectors:,} vectors" if vectors else "an adapter"
    what = f"{sum(counts):,} rows (or columns) in {len(counts)} layers" if counts else what
    pairs = f" for the pairs {', '.join(source.pairs)}" if source.pairs else ""
    part = "" if scale == 1 else f", of whose changes {scale:g} is merged"
    kind = str(model.dtype).removeprefix("torch.")
    return f"""---
base_model: {source.base}
library_name: transformers
---

# {source.base}, with what was trained merged in

Made by `neuroglot merge` from {source.base} and an adapter that had trained {what}{pairs}{part}. Every other weight
is that of the base model, in {kind}. It needs neither peft nor neuroglot:

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("path/to/this/folder")
processor = AutoProcessor.from_pretrained("path/to/this/folder")
```
"""
