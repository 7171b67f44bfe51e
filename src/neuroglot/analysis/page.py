"""The analysis as a page, as Markdown, and as pictures, made from analysis.json alone.

The page has the style of the run's report, whose template is where the colours and the style sheet are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from neuroglot.analysis.context import Figure, Table
from neuroglot.analysis.kinds import KINDS
from neuroglot.file_format import write_text
from neuroglot.report.figures import both

WIDE_POINTS = 1.2
"""A picture is shown this many times its drawn size."""


def write(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write analysis.html, analysis.md and analysis-*.svg into a run folder; return the page."""
    sections = [_section(name, entry) for name, entry in content["kinds"].items() if name in KINDS]
    pictures = {drawn["name"]: drawn for section in sections for drawn in section["figures"]}
    for old in folder.glob("analysis-*.svg"):
        if old.stem.removeprefix("analysis-") not in pictures:
            old.unlink()
    for name, drawn in pictures.items():
        write_text(folder / f"analysis-{name}.svg", standalone(drawn["wide"], drawn["alt"]))
    write_text(folder / "analysis.md", markdown(content, sections))
    path = folder / "analysis.html"
    write_text(path, page(content, sections))
    return path


def _section(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    kind, result = KINDS[name], entry["found"]
    skipped = "skipped" in result
    tables: list[Table] = [] if skipped else kind.tables(result)
    figures: list[Figure] = [] if skipped else kind.figures(result)
    return {
        "name": name,
        "title": kind.title,
        "question": kind.question,
        "sentence": entry["sentence"],
        "seconds": entry["seconds"],
        "options": ", ".join(f"{name} {value}" for name, value in entry["options"].items()),
        "interval": result.get("interval", ""),
        "tables": tables,
        "figures": [{"name": f.name, "alt": f.alt, **both(f"analysis-{f.name}", f.draw)} for f in figures],
    }


def page(content: Mapping[str, Any], sections: list[dict[str, Any]]) -> str:
    """Return the page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("neuroglot.analysis").joinpath("page.html").read_text(encoding="utf-8")
    missing = [kind.title for name, kind in KINDS.items() if name not in content["kinds"]]
    shown = environment.from_string(template).render(
        content=content, sections=sections, style=_style(), missing=missing
    )
    return shown.strip() + "\n"


def markdown(content: Mapping[str, Any], sections: list[dict[str, Any]]) -> str:
    """Return the same as Markdown."""
    parts = [
        f"# Analysis: {content['run']}",
        f"Method `{content['method']}`, task `{content['task']}`, score `{content['score']}`.",
    ]
    for section in sections:
        parts += [f"## {section['title']}", f"*{section['question']}*", section["sentence"]]
        parts += [f"![{section['name']}](analysis-{drawn['name']}.svg)" for drawn in section["figures"]]
        parts += [f"**{table.caption}**\n\n{_markdown(table)}" for table in section["tables"]]
        intervals = f"Intervals: {section['interval']}. " if section["interval"] else ""
        parts.append(f"{intervals}Measured with {section['options']} in {section['seconds']:.0f} s.")
    return "\n\n".join(parts) + "\n"


def _markdown(table: Table) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in table.rows)
    return "\n".join([head, "|---" * len(table.rows[0]) + "|", *body])


@cache
def _style() -> str:
    template = resources.files("neuroglot.report").joinpath("page.html").read_text(encoding="utf-8")
    return template[template.index("<style>") + len("<style>") : template.index("</style>")]


def standalone(drawing: str, alt: str) -> str:
    """Return a drawing of the page as a picture of its own: with a size, a title, and the light page's colours."""
    from xml.sax.saxutils import escape

    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", _style().split("@media")[0]))
    text = re.sub(r"var\(--([\w-]+)\)", lambda match: colours[match[1]], drawing)
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert found is not None  # every drawing of ours has one
    width, height = (float(number) * WIDE_POINTS for number in found.groups())
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
    text = text.replace("<svg ", head, 1)
    return re.sub(r"(<svg[^>]*>)", lambda match: f"{match[1]}<title>{escape(alt)}</title>", text, count=1) + "\n"
