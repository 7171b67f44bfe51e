"""The example notebook is what its script says, and its code runs."""

import json
import re
from pathlib import Path

import matplotlib
import pytest

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
SCRIPT = (EXAMPLES / "signs.py").read_text(encoding="utf-8")


def cells():
    """Return the kind and text of every cell of the script."""
    for kind, text in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", SCRIPT, re.MULTILINE | re.DOTALL):
        yield ("markdown", re.sub("^# ?", "", text, flags=re.MULTILINE).strip()) if kind else ("code", text.strip())


def test_the_notebook_has_the_cells_of_its_script():
    """If not: `make notebook`."""
    notebook = json.loads((EXAMPLES / "signs.ipynb").read_text(encoding="utf-8"))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]] == list(cells())
    assert all(cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code")


@pytest.mark.slow
def test_the_code_of_the_notebook_runs(capsys):
    """With few steps and signs; what it prints last is the class of the merged model."""
    matplotlib.use("agg")
    less = {"60\n": "2\n", "train=480": "train=32", "test=40": "test=4"}
    names = {}
    code = "\n".join(text for kind, text in cells() if kind == "code")
    for long, short in less.items():
        assert long in code
        code = code.replace(long, short)
    exec(compile(code, "signs.py", "exec"), names)
    assert len(names["losses"]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "LlavaForConditionalGeneration"
