"""The model card, `README.md` of a model folder: what it is, what it learned from, how good it is, what it cannot do."""

from collections.abc import Mapping
from typing import Any

from hashtag_core.data.model_record import ModelDescription

LIMITS = (
    "It recommends only the hashtags of its vocabulary: a tag that few posts of its training data carry is never recommended.",
    "It repeats what the authors of its training data did, their habits, their language and their prejudices with it.",
    "Its scores rank the tags of one post. They are probabilities only so far as the posts are like its training data.",
    "A post without an image or without a caption is tagged from the rest, less well.",
    "The figures hold for the data set named here and its split; figures of other data sets are not comparable.",
)

FIGURES_OF = (
    "Of the **validation split** (protocol headline: posts with a true tag, all true tags count), on which the best epoch and K were "
    "chosen: a little too good. `jobs/evaluate.py` has those of the test split."
)


def model_card(described: ModelDescription, paper: str, tags: int, numbers: int) -> str:
    """Markdown, from the content of `model.json`; `numbers` counts parameters and buffers."""
    name, version, family = described.get("name", described["family"]), described["version"], described["family"]
    inputs = ", ".join(described["options"].get("inputs", [])) or "none"
    lines = [
        f"# {name}, version {version}",
        "",
        f"Ranks {tags:,} hashtags for a post. Family `{family}`: {paper}",
        "",
        "| | |",
        "|---|---|",
        f"| inputs | {inputs} |",
        f"| numbers in `weights.safetensors` | {numbers:,} |",
    ]
    lines += [
        f"| {key} | {_short(described[key])} |"
        for key in ("dataset", "run_id", "code", "encoders", "captions", "history", "k")
        if described.get(key)
    ]
    metrics = described.get("metrics") or {}
    if metrics:
        lines += ["", "## Figures", "", FIGURES_OF, "", "| metric | value |", "|---|---|"]
        lines += [f"| `{key}` | {_figure(value)} |" for key, value in sorted(metrics.items())]
    lines += [
        "",
        "## How to load it",
        "",
        "```python",
        "from hashtag_core import Recommender",
        "",
        'recommender = Recommender.load("path/to/this/folder")',
        'recommender.recommend([{"post_id": "1", "caption": "a red sports car"}], top_k=5)',
        "```",
        "",
        "## Limits",
        "",
        *[f"- {limit}" for limit in LIMITS],
        "",
        "## Options",
        "",
        "| option | value |",
        "|---|---|",
        *[f"| `{key}` | {_short(value)} |" for key, value in sorted(described["options"].items())],
        "",
    ]
    return "\n".join(lines)


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else _short(value)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_short(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    return str(value).replace("|", "\\|")
