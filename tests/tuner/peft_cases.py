"""The cases that PEFT's own suite runs with, in place of its own: its models, our configuration.

Its training loops know no pairs, so every group is of all pairs. Imported by the suite itself, in another process.
"""

from __future__ import annotations

from typing import Any

from neuroglot.tuner import NeuroglotConfig

PAIRS = ["en-de", "en-fr"]
BOTH = "en-de,en-fr"


def case(rows: dict[str, list[int]], **kwargs: Any) -> dict[str, Any]:
    """Return the keyword arguments of a configuration that trains these units."""
    layout = {module: {BOTH: len(index)} for module, index in rows.items()}
    return {"pairs": PAIRS, "layout": layout, "rows": rows, **kwargs}


LIN0, LIN1 = {"lin0": [0, 3, 4, 9, 12, 17]}, {"lin1": [1]}
COLUMNS = {"lin1": [0, 2, 5, 11, 12, 19]}
CONV1D = {"conv1d": [0]}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "rows of lin0": ("MLP", case(LIN0)),
    "rows of lin1": ("MLP", case(LIN1)),
    "rows of both": ("MLP", case({**LIN0, **LIN1})),
    "all rows": ("MLP", case({"lin0": list(range(20)), "lin1": [1, 0]})),
    "columns of lin1": ("MLP", case(COLUMNS, axes={"lin1": 1})),
    "rows and columns": ("MLP", case({**LIN0, **COLUMNS}, axes={"lin1": 1})),
    "rank 2": ("MLP", case(LIN0, rank=2)),
    "rank 2, columns": ("MLP", case(COLUMNS, axes={"lin1": 1}, rank=2)),
    "layer norm": ("MLP_LayerNorm", case(LIN0)),
    "without bias": ("MLP2", case({"lin0": [1, 2, 30], "lin1": [1, 0]})),
    "Conv1D outputs": ("EmbConv1D", case(CONV1D, axes={"conv1d": 1})),
    "Conv1D inputs": ("EmbConv1D", case({"conv1d": [0, 1, 4]})),
    "Conv1D and lin0": ("EmbConv1D", case({**CONV1D, "lin0": [1]}, axes={"conv1d": 1})),
}
MODES = ("auto", "additive")


class ByTarget(NeuroglotConfig):
    """A configuration made as most of PEFT's are: by names of modules; it trains some rows of each."""

    def __init__(self, target_modules: list[str], **kwargs: Any) -> None:
        super().__init__(**case({name: [0, 2, 7] for name in target_modules}), **kwargs)


ALL_PEFT_CONFIG_CLASSES = [ByTarget]

TEST_CASES = [
    (f"neuroglot {mode}: {name}", model, NeuroglotConfig, {**kwargs, "mode": mode})
    for mode in MODES
    for name, (model, kwargs) in SHAPES.items()
]

MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES = [
    (f"neuroglot {mode}: {name}", "neuroglot", NeuroglotConfig, *(one | {"mode": mode, "init_weights": False}
                                                               for one in both))
    for mode in MODES
    for name, both in {
        "same rows": (case(LIN0), case(LIN0)),
        "overlapping rows": (case(LIN0), case({"lin0": [3, 5, 9, 1]})),
        "different layers": (case(LIN0), case(LIN1)),
        "rows and columns": (case(LIN1), case(COLUMNS, axes={"lin1": 1})),
        "dense and rank 2": (case(LIN0), case(LIN0, rank=2)),
    }.items()
]  # fmt: skip
