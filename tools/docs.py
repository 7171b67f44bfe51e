"""MkDocs hook: the pages and diagrams of the site that are made while it is built.

Pages are made from the files in the root (README, CONTRIBUTING, CHANGELOG), so that no sentence is written twice, from
the schema of the recipe, and from the example notebook. Diagrams become SVG here: the site loads nothing from outside.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmdr
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from neuroglot.config import Recipe

ROOT = Path(__file__).parent.parent
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draw ```mermaid blocks."""
    fence = {"name": "mermaid", "class": "mermaid", "format": diagram}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    texts = {page: from_root((ROOT / file).read_text(encoding="utf-8")) for page, file in PAGES.items()}
    texts["reference/recipe.md"] = "\n".join(recipe_page())
    texts["examples/signs.md"] = "\n".join(notebook_page(ROOT / "docs/examples/signs.ipynb"))
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to the notebook and to the contributing guide to the pages that show them."""
    markdown = markdown.replace("(../examples/signs.ipynb)", "(../examples/signs.md)")
    return markdown.replace("(../CONTRIBUTING.md", "(contributing.md")


def from_root(text: str) -> str:
    """Return a text of the root with its links as they are from `docs`; those to other files become plain text."""
    text = re.sub(r"\]\(docs/", "](", text)
    for page, file in PAGES.items():
        text = text.replace(f"]({file}", f"]({page}")
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)(?![\w/.-]+\.(?:md|ipynb|json|svg)\b)[^)]*\)", r"\1", text)


def notebook_page(notebook: Path) -> Iterator[str]:
    """Yield the lines of a notebook: its texts, its code, and what the code has printed and drawn."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        yield f"```python\n{text}\n```\n" if cell["cell_type"] == "code" else f"{text}\n"
        for output in cell.get("outputs", []):
            if image := output.get("data", {}).get("image/png"):
                yield f"![output](data:image/png;base64,{''.join(image).strip()})\n"
            else:
                yield f"```text\n{''.join(output['text'])}```\n"
    yield f"[Download the notebook]({notebook.name})"


def diagram(source: str, *_: Any, **__: Any) -> str:
    """Return a Mermaid diagram as SVG."""
    name = f"diagram-{zlib.crc32(source.encode()):x}"  # the renderer calls every diagram, and its parts, the same
    return f"<p>{mmdr.render(source).svg().replace('merman', name)}</p>"


def recipe_page() -> Iterator[str]:
    """Yield the lines of the page of recipe fields: a table for each section, and for each kind of system."""
    schema = Recipe.model_json_schema()
    sections, kinds = schema["$defs"], set(schema["$defs"])
    yield "# Recipe fields\n"
    yield "All fields of a recipe. This page is made from the code.\n"
    yield from table(schema, sections)
    for name, field in schema["properties"].items():
        keys = [option["$ref"].split("/")[-1] for option in field.get("anyOf", [field]) if "$ref" in option]
        for key in keys:
            kinds.remove(key)
            yield f"## `{name}`\n"
            yield from table(sections[key], sections)
    for key in sorted(kinds):
        yield f"## {title(key, sections)}\n"
        yield from table(sections[key], sections)


def title(key: str, sections: dict[str, Any]) -> str:
    """Return the heading of a section that stands inside another: a kind of system, or a price."""
    kind = sections[key]["properties"].get("kind")
    return f"kind: {kind['const']}" if kind else key.removesuffix("Section").lower()


def table(schema: dict[str, Any], sections: dict[str, Any]) -> Iterator[str]:
    """Yield a section's description and the table of its fields."""
    yield f"{schema['description']}\n"
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    for name, field in schema["properties"].items():
        if "$ref" in field:
            cells = (f"[`{name}`](#{name})", "section", "", sections[field["$ref"].split("/")[-1]]["description"])
        else:
            default = "*required*" if name in schema.get("required", ()) else value(field.get("default", {}))
            cells = (f"`{name}`", kind_of(field, sections), default, field.get("description", ""))
        yield "| " + " | ".join(" ".join(cell.replace("|", r"\|").split()) for cell in cells) + " |"
    yield ""


def value(default: Any) -> str:
    """Return a default as it is written in a recipe."""
    return (
        "unset" if default is None else f"`{default if default and isinstance(default, str) else json.dumps(default)}`"
    )


def kind_of(field: dict[str, Any], sections: dict[str, Any]) -> str:
    """Return what a field takes, in words."""
    if "$ref" in field:
        heading = title(field["$ref"].split("/")[-1], sections)
        return f"[{heading}](#{heading.replace(': ', '-')})"
    for several in ("anyOf", "oneOf"):
        if several in field:
            kinds = [kind_of(option, sections) for option in field[several] if option.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{choice}`" for choice in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of: {kind_of(field.get('items', {}), sections)}"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"mapping to: {kind_of(inner, sections)}" if isinstance(inner, dict) else "mapping"
    bounds = [f"{sign} {field[bound]}" for bound, sign in BOUNDS.items() if bound in field]
    return " ".join([WORDS.get(field.get("type", ""), "any value"), *bounds])
