"""The report of `evaluate` as one HTML file, from what `leaderboard.json` holds and the gallery of its posts."""

from collections.abc import Mapping, Sequence
from typing import Any

from hashtag_core.evaluation.gallery import Gallery
from hashtag_core.evaluation.metrics import PROTOCOLS
from hashtag_core.evaluation.pages import render
from hashtag_core.evaluation.report import PROTOCOL_TEXT, main_k, rank_models
from hashtag_core.evaluation.report_charts import labels, report_charts

Report = Mapping[str, Any]


def report_page(report: Report, gallery: Gallery | None) -> str:
    """The page; `gallery` is None where posts are not to be shown."""
    charts = report_charts(report)
    made = [_leaderboard(report), _curves(report), _scores(report), _slices(report), _confused(report)]
    made += [_cost(report), _catalogue(report), _learning(), _reading(report)]
    sections = []
    for part in made:
        section = {"told": "", "tables": [], **part, "charts": charts.get(part["id"], [])}
        section["tables"] = [item for item in section["tables"] if item["rows"]]
        if section["charts"] or section["tables"]:
            sections.append(section)
    posts = max((int(model["metrics"]["posts"]) for model in report["models"]), default=0)
    facts = [
        f"dataset {report['dataset']} ({report['dataset_hash'][:12]}), split {report['split']}, {posts:,} posts with a true tag",
        f"protocol headline where no other is named: {PROTOCOL_TEXT['headline']}",
    ]
    if report["bootstrap_samples"]:
        facts.append(f"intervals: 95 %, bootstrap over users, {report['bootstrap_samples']:,} draws")
    shown = gallery and {"told": gallery.told(), "data": gallery.data()}
    best = rank_models(report)[0]["family"] if report["models"] else "no model"
    title = (
        f"{len(report['models'])} models on {posts:,} posts: {best} first"
        if len(report["models"]) > 1
        else f"{best} on {posts:,} posts"
    )
    return render("report.html", title=title, facts=facts, notes=report["notes"], sections=sections, gallery=shown)


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], told: str = "", *, folded: bool = False
) -> dict[str, Any]:
    return {"header": header, "rows": rows, "told": told, "folded": folded}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(model: Mapping[str, Any], protocol: str, name: str) -> str:
    bounds = model["intervals"].get(protocol, {}).get(name)
    return f"{bounds[0]:.3f}–{bounds[1]:.3f}" if bounds else ""


def _leaderboard(report: Report) -> dict[str, Any]:
    k, named = main_k(report["ks"]), labels(report)
    columns = {f"P@{k}": f"precision_at_{k}", f"R@{k}": f"recall_at_{k}", f"hit@{k}": f"hit_rate_at_{k}"}
    columns |= {f"nDCG@{k}": f"ndcg_at_{k}", "user-macro F1": f"f1_at_{k}_user_macro", "MAP": "mean_average_precision"}
    header = ["model", f"F1@{k}", "95 % interval", *columns, f"papers F1@{k}", f"floor F1@{k}", "URI"]
    f1 = f"f1_at_{k}"
    rows = [
        [
            named[model["model"]],
            _number(model["metrics"][f1]),
            _interval(model, "headline", f1),
            *[_number(model["metrics"][name]) for name in columns.values()],
            _number(model["papers"][f1]),
            _number(model["floor"][f1]),
            model["model"],
        ]
        for model in rank_models(report)
    ]
    against = [
        [
            f"{named[row['first']]} less {named[row['second']]}",
            f"{row['value']:+.3f}",
            f"{row['low']:+.3f} .. {row['high']:+.3f}",
            f"{row['p_value']:.3f}",
        ]
        for row in report["differences"]
    ]
    told = f"Best less each other, F1@{k}, on the same draws; an interval that holds 0 decides nothing"
    return {
        "id": "leaderboard",
        "title": "Leaderboard",
        "tables": [_table(header, rows), _table(["models", "difference", "95 % interval", "p"], against, told)],
    }


def _curves(report: Report) -> dict[str, Any]:
    names = {"precision": "P", "recall": "R", "f1": "F1", "hit_rate": "hit", "ndcg": "nDCG"}
    tables = []
    for model in rank_models(report):
        figures = {"headline": model["metrics"], "papers": model["papers"], "floor": model["floor"]}
        rows = [
            [f"{protocol}, K = {k}", *[_number(figures[protocol][f"{name}_at_{k}"]) for name in names]]
            for protocol in PROTOCOLS
            for k in report["ks"]
        ]
        told = f"{labels(report)[model['model']]}: every K and protocol"
        tables.append(_table(["protocol", *names.values()], rows, told, folded=True))
    return {"id": "curves", "title": "Over the number of tags", "tables": tables}


def _scores(report: Report) -> dict[str, Any]:
    rows = []
    for model in rank_models(report):
        cut, calibrated = model["thresholded"], model.get("calibration") or {}
        figures = (
            [cut.get(name) for name in ("threshold", "precision", "recall", "f1", "mean_length")] if cut else [None] * 5
        )
        rows.append([labels(report)[model["model"]], *map(_number, figures), _number(calibrated.get("error"))])
        rows[-1].append(_number((model.get("calibration_error") or {}).get("all")))
    header = ["model", "threshold", "precision", "recall", "F1", "tags a post", "calibration error", "over all pairs"]
    told = "Cut at the score that is best on validation"
    return {"id": "scores", "title": "What a score is worth", "tables": [_table(header, rows, told)]}


def _slices(report: Report) -> dict[str, Any]:
    k, models, named = main_k(report["ks"]), rank_models(report), labels(report)
    header = [f"F1@{k}", *[named[model["model"]] for model in models]]
    names = list(dict.fromkeys(name for model in models for name in model["slices"]))
    rows = [[name, *[_number(model["slices"].get(name, {}).get(f"f1_at_{k}")) for model in models]] for name in names]
    bands = list(dict.fromkeys(name for model in models for name in model["tags"]))
    uses = {
        name: f"{name} ({models[0]['tags'][name]['tags']:.0f} tags, {models[0]['tags'][name]['uses']:.0f} uses)"
        for name in bands
    }
    tails = [[uses[name], *[_number(model["tags"][name][f"recall_at_{k}"]) for model in models]] for name in bands]
    told = f"R@{k} of the uses of true tags, by how often the train posts have them"
    return {
        "id": "slices",
        "title": "Kinds of posts and of tags",
        "tables": [_table(header, rows), _table(["tags", *header[1:]], tails, told)],
    }


def _confused(report: Report) -> dict[str, Any]:
    tables = []
    for model in rank_models(report):
        rows = [
            [row["true"], row["given"], f"{row['posts']}", f"{row['lift']:.1f}"] for row in model.get("confused") or []
        ]
        header = ["true tag that is missing", "given instead", "posts", "times chance"]
        tables.append(_table(header, rows, labels(report)[model["model"]], folded=True))
    told = "Pairs that occur together more often than chance has it: candidates for synonyms, or tags that look alike."
    return {"id": "confused", "title": "Tags confused with each other", "told": told, "tables": tables}


def _cost(report: Report) -> dict[str, Any]:
    rows = [
        [
            labels(report)[model["model"]],
            f"{model['parameters']:,}",
            f"{model['seconds']:.1f}",
            ", ".join(f"{count} {status}" for status, count in model["statuses"].items()),
        ]
        for model in rank_models(report)
    ]
    told = "Seconds are those of this evaluation: reading, encoding what was not cached, ranking."
    tables = [_table(["model", "parameters", "seconds", "posts by status"], rows)]
    return {"id": "cost", "title": "Cost against quality", "told": told, "tables": tables}


def _catalogue(report: Report) -> dict[str, Any]:
    header = ["model", "coverage", "Gini", "novelty, bits"]
    rows = [
        [labels(report)[model["model"]], *[_number(model["metrics"][name]) for name in ("coverage", "gini", "novelty")]]
        for model in rank_models(report)
    ]
    return {"id": "catalogue", "title": "Coverage and novelty", "tables": [_table(header, rows)]}


def _learning() -> dict[str, Any]:
    return {"id": "learning", "title": "Learning curves"}


def _reading(report: Report) -> dict[str, Any]:
    rows = [[name, text] for name, text in PROTOCOL_TEXT.items()]
    rows += [
        ["F1", "harmonic mean of mean precision and mean recall; an empty place in a list is a miss"],
        ["coverage", "share of the vocabulary that is recommended at all"],
        ["Gini", "of how often each tag is given: 0 all alike, towards 1 few tags"],
        ["novelty", "mean of -log2(share of train posts with the tag) over what is given"],
    ]
    return {"id": "reading", "title": "How to read this", "tables": [_table(["word", "meaning"], rows)]}
