"""How large the source is, and how much of it one example and one hypothesis pass: `python tools/house.py`.

Counts files, folders and lines of src/neuroglot; then runs the command line on a small JSONL file under a profiler,
and counts the files and functions that were called: up to the first optimiser step of LoRA and of `mnaft`, and from
a trained run to its scored hypotheses. Takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from PIL import Image, ImageDraw
from torch.optim.optimizer import register_optimizer_step_pre_hook

import neuroglot
from neuroglot.cli import main

SOURCE = Path(neuroglot.__file__).parent
SIGNS = [("exit", "Ausgang"), ("open", "offen"), ("red", "rot"), ("Monday", "Montag"), ("water", "Wasser"),
         ("station", "Bahnhof"), ("closed", "zu"), ("two", "zwei")]  # fmt: skip


class FirstStepError(BaseException):
    """The first optimiser step is about to be made."""


def size() -> dict[str, float]:
    """Count files, folders that hold any, and lines."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    return {
        "files": len(lines),
        "folders": len({path.parent for path in lines}),
        "lines": sum(lines.values()),
        "median lines": statistics.median(lines.values()),
        "largest": max(lines.values()),
    }


def corpus(folder: Path) -> Path:
    """Write a JSONL file with an image for each of a few signs, several times."""
    rows = []
    for number in range(10):
        for source, target in SIGNS:
            picture = Image.new("RGB", (120, 120), "white")
            ImageDraw.Draw(picture).text((10, 50), f"{source} {number}", fill="black")
            picture.save(folder / f"{source}-{number}.png")
            rows.append({"image": f"{source}-{number}.png", "source": f"{source} {number}", "source_lang": "en",
                         "target": f"{target} {number}", "target_lang": "de"})  # fmt: skip
    path = folder / "signs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def passed(arguments: list[str], until_step: bool) -> dict[str, int]:
    """Run the command line and count the files and named functions of the package that it calls."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.add(frame.f_code)

    def stop(*_: object) -> None:
        raise FirstStepError

    handle = None
    if until_step:
        handle = register_optimizer_step_pre_hook(stop)
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        main(arguments)
    except FirstStepError:
        pass
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        if handle is not None:
            handle.remove()
    # no lambdas and comprehensions, and no bodies of modules and classes, which run when they are imported
    named = [code for code in seen if code.co_flags & CO_OPTIMIZED and not code.co_name.startswith("<")]
    ours = [code for code in named if code.co_filename.startswith(str(SOURCE))]
    return {"files": len({code.co_filename for code in ours}), "functions": len(ours)}


def way(folder: Path) -> dict[str, dict[str, int]]:
    """Count what an example passes on its way to the first step, and what a hypothesis passes."""
    sizes = ["data.train=32", "data.dev=8", "data.test=8", "data.retention=0", "profile.items=16", "train.steps=2"]
    common = [f"data.source={corpus(folder)}", "data.pairs=[]", "report.gallery=0", *sizes]

    def arguments(verb: str, name: str, method: str) -> list[str]:
        return [verb, "quickstart", *common, f"name={name}", f"method={method}", "--runs", str(folder / "runs")]

    found = {}
    for method in ("lora", "mnaft"):
        found[f"an example to the first step, {method}"] = passed(arguments("run", method, method), True)
    passed(arguments("train", "whole", "lora"), False)
    found["a hypothesis, lora"] = passed(arguments("evaluate", "whole", "lora"), False)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts: dict[str, dict[str, Any]] = {"size": size(), **way(Path(folder))}
    if options.json:
        print(json.dumps(facts, indent=1))
    else:
        for title, numbers in facts.items():
            print(f"{title}: " + ", ".join(f"{value:g} {name}" for name, value in numbers.items()))
