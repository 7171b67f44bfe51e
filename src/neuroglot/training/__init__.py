"""Training: one loop for every method. What differs between methods is which parameters exist; see `methods`."""

from __future__ import annotations

from neuroglot.training.aligned import aligned
from neuroglot.training.methods import METHODS, from_adapter, prepare
from neuroglot.training.sampler import Mix, OnePairBatchSampler
from neuroglot.training.trainer import PairTrainer, TrainResult, parameter_groups, train
from neuroglot.training.verification import (
    Audit,
    NameAudit,
    audit,
    audit_names,
    changed,
    layer_entries,
    snapshot,
    trained_names,
    trained_vectors,
)

__all__ = [
    "METHODS",
    "Audit",
    "Mix",
    "NameAudit",
    "OnePairBatchSampler",
    "PairTrainer",
    "TrainResult",
    "aligned",
    "audit",
    "audit_names",
    "changed",
    "from_adapter",
    "layer_entries",
    "parameter_groups",
    "prepare",
    "snapshot",
    "train",
    "trained_names",
    "trained_vectors",
]
