"""The kinds of analysis, in the order of the page: a new one is a file with a `KIND`, and a line here."""

from __future__ import annotations

from neuroglot.analysis import ablation, difficulty, instruction, layer_ranks, noise, specificity

KINDS = {
    kind.name: kind
    for kind in (
        noise.KIND,
        specificity.KIND,
        ablation.KIND,
        difficulty.KIND,
        instruction.KIND,
        layer_ranks.KIND,
    )
}
