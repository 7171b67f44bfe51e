"""Causal ablation: what silencing neurons does to every pair."""

from neuroglot.evidence.kinds.ablation.measuring import measure, work
from neuroglot.evidence.kinds.ablation.words import figures_of, sentence, tables
from neuroglot.evidence.setting import Kind

KIND = Kind(
    name="ablation",
    title="Causal ablation: do a pair's neurons serve that pair",
    question="Does silencing the neurons of a pair hurt that pair more than the others, and more than chance?",
    version=1,
    work=work,
    measure=measure,
    sentence=sentence,
    tables=tables,
    figures=figures_of,
    reads=("profile.safetensors", "selection.safetensors", "adapter"),
    options=("items", "seeds", "ablate"),
)
