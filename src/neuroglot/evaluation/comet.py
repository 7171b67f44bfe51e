"""COMET in a virtual environment of its own: it pins versions of transformers and torch that this one cannot have.

Notable: the child is given a file of triples and writes a file of scores; nothing is read from what it prints, except,
when it fails, the last line that it said.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroglot.errors import UserError, refusing
from neuroglot.file_format import given_path

MODEL = "Unbabel/wmt22-comet-da"
INSTALL = "python3 -m venv comet && comet/bin/pip install unbabel-comet"
WORKER = Path(__file__).with_name("comet_worker.py")
NO_COMET = 3
"""The worker's exit code where the environment lacks the package."""


@dataclass(frozen=True)
class Comet:
    """What COMET says.

    Attributes:
        scores: one a segment, times 100.
        signature: model and version.
    """

    scores: list[float]
    signature: str


def python_of(place: Path | str) -> Path:
    """Return the interpreter of a virtual environment, given its folder or the interpreter itself.

    Raises:
        UserError: there is none.
    """
    place = given_path(place)
    if not place.exists():
        raise UserError(f"COMET's environment {place} does not exist; make one: {INSTALL}")
    if place.is_dir():
        known = [place / "bin" / "python", place / "Scripts" / "python.exe"]
        result = next((python for python in known if python.exists()), None)
        if result is None:
            raise UserError(f"{place} holds no bin/python; expected a virtual environment; make one: {INSTALL}")
        return result
    if not os.access(place, os.X_OK):
        raise UserError(f"{place} is not a program; expected a virtual environment, or its bin/python")
    return place


def comet(
    place: Path | str,
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    model: str = MODEL,
) -> Comet:
    """Score segments with COMET.

    Args:
        place: its virtual environment, or the python of that.
        sources: what was translated.
        hypotheses: what a system said.
        references: what it should have said.
        model: a name on the hub, a checkpoint file or its folder.

    Raises:
        UserError: there is no such environment, COMET is not in it, or it failed; with the last line that it said.
    """
    python = python_of(place)
    texts = zip(sources, hypotheses, references, strict=True)
    triples = [{"src": source, "mt": said, "ref": wanted} for source, said, wanted in texts]
    with tempfile.TemporaryDirectory(prefix="neuroglot-comet-") as folder:
        given, made = Path(folder) / "triples.json", Path(folder) / "scores.json"
        given.write_text(json.dumps(triples), encoding="utf-8")
        # Isolated: neither what lies beside the worker nor in the working folder is found by `import comet`.
        command = [str(python), "-I", str(WORKER), model, str(given), str(made)]
        try:
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except OSError as error:
            raise UserError(f"{python} cannot be run: {error.strerror}; {INSTALL}") from None
        said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        if ended.returncode == NO_COMET:
            raise UserError(f"{python} has no COMET ({said[-1] if said else 'no module'}); {INSTALL}")
        if ended.returncode != 0:
            raise UserError(
                f"COMET failed with exit code {ended.returncode}: {said[-1][:300] if said else 'it said nothing'}; "
                f"try it alone: {python} -c 'import comet'"
            )
        with refusing(lambda why: f"COMET's answer cannot be read ({why}); is {python} COMET's own?"):
            answer = json.loads(made.read_text(encoding="utf-8"))
            scores = [100 * float(score) for score in answer["scores"]]
    if len(scores) != len(triples) or not all(map(math.isfinite, scores)):
        raise UserError(f"COMET gave {len(scores)} scores for {len(triples)} segments, or one that is no number")
    return Comet(scores, f"model:{model}|scale:100|version:{answer.get('version', 'unknown')}")
