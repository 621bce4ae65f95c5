"""What of the pages is made from the code, so that it cannot be wrong: `<!-- help: JOB -->` is that job's help text, `<!-- families -->`
the model families with their figure on Open Clip Art, `<!-- recipe -->` every key of a recipe with its type, default and docstring."""

import ast
import importlib
import io
import json
import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BOARD = ROOT / "docs" / "leaderboard" / "openclipart" / "report.json"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the marks replaced."""
    markdown = re.sub(r"<!-- help: (\w+) -->", lambda found: _help(found[1]), markdown)
    for mark, made in (("<!-- families -->", _families), ("<!-- recipe -->", _recipe)):
        if mark in markdown:
            markdown = markdown.replace(mark, made())
    return markdown


def _help(job: str) -> str:
    sys.path.insert(0, str(ROOT))
    os.environ["COLUMNS"] = "100"
    text = io.StringIO()
    parser = importlib.import_module(f"jobs.{job}").build_parser()
    parser.prog = f"hashtags {job}"
    with redirect_stdout(text):
        parser.print_help()
    return f"```text\n{text.getvalue()}```"


def _families() -> str:
    sys.path.insert(0, str(ROOT))
    from hashtag_core.models.registry import family, list_models

    report = json.loads(BOARD.read_text(encoding="utf-8"))
    found = {entry["name"]: entry for entry in report["entries"] if entry["status"] == "done"}
    parts = []
    for name in list_models():
        parts += [f"## `{name}`", family(name).paper]
        entry = found.get(name)
        if entry:
            figure, (low, high) = entry["metrics"]["headline"]["f1_at_5"], entry["intervals"]["headline"]["f1_at_5"]
            reads = ", ".join(entry["reads"]) or "nothing"
            parts.append(
                f"Reads {reads}. F1@5 on Open Clip Art **{figure:.3f}** ({low:.3f}–{high:.3f}; protocol headline, test split by user), "
                f"{entry['parameters']:,} parameters, {entry['train_seconds']:.0f} s to train on two CPU cores."
            )
        recipes = [one for one in (name, f"{name}_small") if (ROOT / "jobs" / "recipes" / f"{one}.toml").is_file()]
        parts.append("Recipes: " + ", ".join(f"`{one}`" for one in recipes) + ".")
    return "\n\n".join(parts)


def _recipe() -> str:
    sys.path.insert(0, str(ROOT))
    from hashtag_core import config, search_space

    files = [ROOT / "hashtag_core" / f"{name}.py" for name in ("sections", "search_space")]
    nodes = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    parts = []
    for section, field in config.Recipe.model_fields.items():
        model = search_space.SearchSpace if section == "search" else field.annotation
        told = search_space.__doc__ if section == "search" else model.__doc__
        parts += [f"## [{section}]", told, "| key | type | default | meaning |\n|---|---|---|---|"]
        parts[-1] += "".join(f"\n| {' | '.join(row)} |" for row in _keys(classes[model.__name__], model.model_fields))
    return "\n\n".join(parts)


def _keys(node: ast.ClassDef, fields: dict[str, Any]) -> list[list[str]]:
    rows = []
    for place, item in enumerate(node.body):
        if not isinstance(item, ast.AnnAssign) or item.target.id not in fields:
            continue
        after = node.body[place + 1] if place + 1 < len(node.body) else None
        told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        field = fields[item.target.id]
        bounds = ", ".join(_bound(limit) for limit in field.metadata)
        default = json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)
        kind = ast.unparse(item.annotation).replace("'", '"').replace(" | None", " or null")
        cells = [
            f"`{item.target.id}`",
            f"`{kind}`" + (f" {bounds}" if bounds else ""),
            f"`{default}`",
            " ".join(told.split()),
        ]
        rows.append([cell.replace("|", "\\|") for cell in cells])
    return rows


def _bound(limit: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return " ".join(f"{sign} {getattr(limit, name)}" for name, sign in signs.items() if hasattr(limit, name))
