"""What the server of cells imports once, so that no cell has to: whatever a stage imports when it runs."""

from __future__ import annotations

from importlib import import_module

for _name in (
    "neuroglot.compare.cells",
    "neuroglot.data.batch",
    "neuroglot.synthetic.scenes",
    "neuroglot.evaluation",
    "neuroglot.models.load",
    "neuroglot.neurons",
    "neuroglot.report",
    "neuroglot.systems",
    "neuroglot.training",
    "neuroglot.tuner",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.auto.processing_auto",
):
    import_module(_name)
