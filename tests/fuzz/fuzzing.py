"""What every fuzzer shares: inputs from a seed, what a reader may answer, and what took longest.

A fuzzer is a function from a seeded random generator to one input, and a function that gives this input to the code
under test. The code may accept it, or refuse it with a `UserError` whose message is one line without control
characters. Any other exception is a defect.

The fast tests try 2,000 inputs each; `make fuzz` sets `NEUROGLOT_FUZZ=200000`. A failure names its seed:
`NEUROGLOT_FUZZ_SEED=N NEUROGLOT_FUZZ=1` repeats that input alone.
"""

from __future__ import annotations

import os
import random
import resource
import time
import traceback
import unicodedata
from collections.abc import Callable
from typing import TypeVar

from neuroglot.errors import UserError

Input = TypeVar("Input")

COUNT = int(os.environ.get("NEUROGLOT_FUZZ", "2000"))
SEED = int(os.environ.get("NEUROGLOT_FUZZ_SEED", "0"))
SHOWN = 5
"""Defects that are written out; the others are counted."""


def fuzz(name: str, make: Callable[[random.Random], Input], run: Callable[[Input], object]) -> None:
    """Give `COUNT` inputs to the code under test; print the slowest and the largest; fail on any defect.

    Args:
        name: what is tested, for the printed line.
        make: makes one input from a generator that depends on the seed alone.
        run: gives the input to the code under test.
    """
    defects: list[str] = []
    accepted = refused = 0
    slowest, largest = (0.0, -1), (0, -1)
    for seed in range(SEED, SEED + COUNT):
        given = make(random.Random(seed))
        size = len(given) if isinstance(given, bytes | str) else len(repr(given))
        largest = max(largest, (size, seed))
        start = time.perf_counter()
        try:
            run(given)
        except UserError as error:
            refused += 1
            message = str(error)
            if unsafe := [c for c in message if unicodedata.category(c) in ("Cc", "Zl", "Zp")]:
                defects.append(f"seed {seed}: a message with {unsafe[:5]}: {message!r}")
        except Exception:
            defects.append(f"seed {seed}: {given!r:.300}\n{traceback.format_exc()}")
        else:
            accepted += 1
        slowest = max(slowest, (time.perf_counter() - start, seed))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"\nfuzz {name}: {COUNT} inputs, {accepted} accepted, {refused} refused; slowest {slowest[0] * 1e3:.1f} ms "
        f"(seed {slowest[1]}), largest {largest[0]} characters (seed {largest[1]}); peak {peak:.0f} MiB"
    )
    assert not defects, f"{len(defects)} defects\n" + "\n".join(defects[:SHOWN])
