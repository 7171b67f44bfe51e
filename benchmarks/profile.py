"""What profiling costs beside the least that any first-order score needs: a forward and the gradients of activations.

    python benchmarks/profile.py --json out/profile.json          about ten minutes on two idle cores, 4 GB

`bare` is that least: weights frozen, token embeddings and pixels requiring grad, the same loss, forward and backward.
`profile` is `neuroglot.neurons.profile` over the same batches with the recipe's default scores, from the inventory to
the finished profile. Both take turns in one process. The model is a random LLaVA of 105 M parameters in float32 (a
CLIP tower for images of 336 pixels, a Llama with 32,000 tokens) with two batches, German and French of the same
items; `tiny` is the embedded model on signs as the recipe quickstart profiles them.

`time_ratio` is the median over rounds of profile / bare within a round. `peak_bytes` are what the allocator holds at
the most, counted from the profiler's record of every allocation and release during a run, so that what an operation
needs for a moment counts too; `weight_bytes` are held before. `memory_ratio` compares their sums, as a process would
see them, `memory_ratio_without_weights` the peaks alone. The summary is of the LLaVA.
"""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    from profile_cost import main

    main(__doc__)
else:  # scripts beside this one find it where the standard library's cProfile asks for the module of this name
    globals().update(runpy.run_path(str(Path(sysconfig.get_path("stdlib"), "profile.py")), run_name=__name__))
