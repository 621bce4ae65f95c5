"""The leaderboard: one table for the terminal and for Markdown, from the same rows.

Input everywhere is the report as it is written to `leaderboard.json` (`report_record`).
"""

from collections.abc import Mapping, Sequence

from rich.table import Table

from hashtag_core.evaluation.metrics import Protocol
from hashtag_core.evaluation.report_record import EvaluationReport, ModelRecord

PROTOCOL_TEXT: dict[Protocol, str] = {
    "headline": "posts with a true tag; all true tags count, inside the vocabulary or not",
    "papers": "posts with a true tag in the vocabulary; only those tags count",
    "floor": "posts with a true tag in the vocabulary; all true tags count",
}
WIDE = 135
"""Columns of a terminal that the whole table needs."""

TEXT_COLUMNS = ("model", "family", "version")


def main_k(ks: list[int]) -> int:
    """The K that the leaderboard is sorted by: 5, or the largest there is below it, or the smallest."""
    return max((k for k in ks if k <= 5), default=min(ks))


def main_figures(metrics: Mapping[str, float], ks: list[int]) -> dict[str, float]:
    """The ten figures to look at first, the one that models are ranked by at their head."""
    k = main_k(ks)
    names = [f"{name}_at_{k}" for name in ("f1", "precision", "recall", "hit_rate", "ndcg")]
    names += [f"f1_at_{k}_user_macro", "mean_average_precision", "coverage", "novelty", "posts"]
    return {name: metrics[name] for name in names if name in metrics}


def rank_models(report: EvaluationReport) -> list[ModelRecord]:
    """The models, best F1 at `main_k` under protocol headline first; equal ones in the order given."""
    name = f"f1_at_{main_k(report['ks'])}"
    return sorted(report["models"], key=lambda model: -model["metrics"][name])


def leaderboard_table(report: EvaluationReport, width: int = WIDE) -> Table:
    """For the terminal: families and versions stand for the models' full names. Below `WIDE` columns of width it has the main
    figures alone; no figure and no name is cut in either."""
    header, rows = _rows(report)
    wide = width >= WIDE
    shown = range(1, len(header)) if wide else [index for index, name in enumerate(header) if name in _narrow(report)]
    table = Table(title=_title(report), title_justify="left", padding=(0, 1) if wide else (0, 0), pad_edge=wide)
    for index in shown:
        text = header[index] in TEXT_COLUMNS
        table.add_column(header[index], justify="left" if text else "right", overflow="fold", no_wrap=not text and wide)
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    return table


def _narrow(report: EvaluationReport) -> set[str]:
    k = main_k(report["ks"])
    return {"family", "version", f"F1@{k}", "95 % interval", f"P@{k}", f"R@{k}", f"hit@{k}", f"nDCG@{k}"}


def leaderboard_markdown(report: EvaluationReport) -> str:
    """As a page: the table, who beats whom, every K, slices, what the protocols mean."""
    k = main_k(report["ks"])
    parts = [f"# {_title(report)}\n", markdown_table(*_rows(report))]
    if report["bootstrap_samples"]:
        parts.append(f"Intervals: bootstrap over users, {report['bootstrap_samples']} draws.\n")
    parts += [f"- {note}" for note in report["notes"]]
    if report["differences"]:
        parts.append(f"\n## F1@{k} of the best model minus another's (protocol headline, paired)\n")
        rows = [
            [
                f"{row['first']} - {row['second']}",
                f"{row['value']:+.4f}",
                f"{row['low']:+.4f} .. {row['high']:+.4f}",
                f"{row['p_value']:.3f}",
            ]
            for row in report["differences"]
        ]
        parts.append(markdown_table(["models", "difference", "95 % interval", "p"], rows))
    for model in rank_models(report):
        parts.append(f"\n## {model['model']} ({model['family']})\n")
        parts += [
            _by_k(model, report["ks"]),
            _slices(model, k),
            _tag_bands(model, k),
            _thresholded(model),
            _bleu(model),
        ]
    parts.append("\n## Protocols\n")
    parts += [f"- `{name}`: {text}" for name, text in PROTOCOL_TEXT.items()]
    return "\n".join(part for part in parts if part) + "\n"


def _title(report: EvaluationReport) -> str:
    posts = max((int(model["metrics"]["posts"]) for model in report["models"]), default=0)
    return f"{report['split']} split of {report['dataset']} ({report['dataset_hash'][:12]}), {posts} posts, protocol headline"


def _rows(report: EvaluationReport) -> tuple[list[str], list[list[str]]]:
    k = main_k(report["ks"])
    f1 = f"f1_at_{k}"
    columns = {
        f"P@{k}": f"precision_at_{k}",
        f"R@{k}": f"recall_at_{k}",
        f"hit@{k}": f"hit_rate_at_{k}",
        f"nDCG@{k}": f"ndcg_at_{k}",
        f"user-macro F1@{k}": f"{f1}_user_macro",
    }
    header = [*TEXT_COLUMNS, f"F1@{k}", "95 % interval", *columns, f"papers F1@{k}", f"floor F1@{k}"]
    rows = []
    for model in rank_models(report):
        low_high = model["intervals"].get("headline", {}).get(f1)
        interval = f"{low_high[0]:.3f}–{low_high[1]:.3f}" if low_high else ""
        figures = [model["metrics"][name] for name in columns.values()] + [model["papers"][f1], model["floor"][f1]]
        text = [model["model"], model["family"], model["version"], f"{model['metrics'][f1]:.4f}", interval]
        rows.append([*text, *(f"{figure:.4f}" for figure in figures)])
    return header, rows


def _facts(model: ModelRecord) -> str:
    figures = model["metrics"]
    catalogue = ", ".join(
        f"{name} {figures[name]:.4f}" for name in ("mean_average_precision", "coverage", "gini", "novelty")
    )
    statuses = ", ".join(f"{count} {status}" for status, count in model["statuses"].items())
    return f"{catalogue.replace('_', ' ')} (headline). {model['parameters']:,} parameters. Posts: {statuses}. {model['seconds']} s.\n"


def _by_k(model: ModelRecord, ks: list[int]) -> str:
    names = ("precision", "recall", "f1", "hit_rate", "ndcg")
    rows = [
        [protocol, str(k), *(f"{figures[f'{name}_at_{k}']:.4f}" for name in names)]
        for protocol, figures in (
            ("headline", model["metrics"]),
            ("papers", model["papers"]),
            ("floor", model["floor"]),
        )
        for k in ks
    ]
    return markdown_table(["protocol", "K", "precision", "recall", "F1", "hit rate", "nDCG"], rows)


def _slices(model: ModelRecord, k: int) -> str:
    rows = [
        [
            name,
            f"{figures['posts']:.0f}",
            *(f"{figures[f'{metric}_at_{k}']:.4f}" for metric in ("f1", "precision", "recall")),
        ]
        for name, figures in model["slices"].items()
    ]
    return markdown_table(["slice (headline)", "posts", f"F1@{k}", f"P@{k}", f"R@{k}"], rows)


def _tag_bands(model: ModelRecord, k: int) -> str:
    rows = [
        [name, f"{figures['tags']:.0f}", f"{figures['uses']:.0f}", f"{figures[f'recall_at_{k}']:.4f}"]
        for name, figures in model["tags"].items()
    ]
    return markdown_table(["true tags by train frequency", "tags", "uses", f"R@{k} of the uses"], rows)


def _thresholded(model: ModelRecord) -> str:
    figures = model["thresholded"]
    if not figures:
        return ""
    return (
        f"Cut at score {figures['threshold']:.4f} (chosen on validation; protocol {figures['protocol']}): precision {figures['precision']:.4f}, "
        f"recall {figures['recall']:.4f}, F1 {figures['f1']:.4f}, {figures['mean_length']:.1f} tags a post.\n"
    )


def _bleu(model: ModelRecord) -> str:
    if not model["bleu"]:
        return ""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in model["bleu"].items() if name != "k")
    return f"BLEU of the first {model['bleu']['k']} tags against all true tags (protocol headline): {figures}.\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], other_columns: str = "---") -> str:
    """A table, nothing without a row. `other_columns`: the rule below the header of all columns but the first (`---:`: to the right)."""
    if not rows:
        return ""
    lines = [header, ["---", *[other_columns] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
