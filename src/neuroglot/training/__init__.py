"""Training: one loop for every method. What differs between methods is which parameters exist; see `methods`."""

from __future__ import annotations

from neuroglot.training.aligned import aligned
from neuroglot.training.groups import parameter_groups
from neuroglot.training.methods import METHODS, from_adapter, prepare
from neuroglot.training.options import TrainOptions, TrainResult
from neuroglot.training.sampler import OnePairBatchSampler
from neuroglot.training.trainer import PairTrainer, train
from neuroglot.training.verify import Audit, audit, changed, snapshot

__all__ = [
    "METHODS",
    "Audit",
    "OnePairBatchSampler",
    "PairTrainer",
    "TrainOptions",
    "TrainResult",
    "aligned",
    "audit",
    "changed",
    "from_adapter",
    "parameter_groups",
    "prepare",
    "snapshot",
    "train",
]
