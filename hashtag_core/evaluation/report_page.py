"""The report of `evaluate` as one HTML file, from what `leaderboard.json` holds and the gallery of its posts."""

from hashtag_core.evaluation.gallery import Gallery
from hashtag_core.evaluation.metrics import PROTOCOLS
from hashtag_core.evaluation.pages import Section, page_section, page_table, render, shown_sections
from hashtag_core.evaluation.report import PROTOCOL_TEXT, main_k, rank_models
from hashtag_core.evaluation.report_charts import labels, report_charts
from hashtag_core.evaluation.report_record import EvaluationReport, ModelRecord


def report_page(report: EvaluationReport, gallery: Gallery | None) -> str:
    """The page; `gallery` is None where posts are not to be shown."""
    charts = report_charts(report)
    made = [_leaderboard(report), _curves(report), _scores(report), _slices(report), _confused(report)]
    made += [_cost(report), _catalogue(report), _learning(), _reading(report)]
    for section in made:
        section["charts"] = charts.get(section["id"], [])
    sections = shown_sections(made)
    posts = max((int(model["metrics"]["posts"]) for model in report["models"]), default=0)
    facts = [
        f"dataset {report['dataset']} ({report['dataset_hash'][:12]}), split {report['split']}, {posts:,} posts with a true tag",
        f"protocol headline where no other is named: {PROTOCOL_TEXT['headline']}",
    ]
    if report["bootstrap_samples"]:
        facts.append(f"intervals: 95 %, bootstrap over users, {report['bootstrap_samples']:,} draws")
    shown = gallery and {"summary": gallery.summary(), "data": gallery.data()}
    best = rank_models(report)[0]["family"] if report["models"] else "no model"
    title = (
        f"{len(report['models'])} models on {posts:,} posts: {best} first"
        if len(report["models"]) > 1
        else f"{best} on {posts:,} posts"
    )
    return render("report.html", title=title, facts=facts, notes=report["notes"], sections=sections, gallery=shown)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(model: ModelRecord, protocol: str, name: str) -> str:
    bounds = model["intervals"].get(protocol, {}).get(name)
    return f"{bounds[0]:.3f}–{bounds[1]:.3f}" if bounds else ""


def _leaderboard(report: EvaluationReport) -> Section:
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
    description = f"Best less each other, F1@{k}, on the same draws; an interval that holds 0 decides nothing"
    tables = [
        page_table(header, rows),
        page_table(["models", "difference", "95 % interval", "p"], against, description),
    ]
    return page_section("leaderboard", "Leaderboard", tables)


def _curves(report: EvaluationReport) -> Section:
    names = {"precision": "P", "recall": "R", "f1": "F1", "hit_rate": "hit", "ndcg": "nDCG"}
    tables = []
    for model in rank_models(report):
        figures = {"headline": model["metrics"], "papers": model["papers"], "floor": model["floor"]}
        rows = [
            [f"{protocol}, K = {k}", *[_number(figures[protocol][f"{name}_at_{k}"]) for name in names]]
            for protocol in PROTOCOLS
            for k in report["ks"]
        ]
        description = f"{labels(report)[model['model']]}: every K and protocol"
        tables.append(page_table(["protocol", *names.values()], rows, description, folded=True))
    return page_section("curves", "Over the number of tags", tables)


def _scores(report: EvaluationReport) -> Section:
    rows = []
    for model in rank_models(report):
        cut, calibrated, errors = model["thresholded"], model.get("calibration"), model.get("calibration_error")
        figures = [cut.get("threshold"), cut.get("precision"), cut.get("recall"), cut.get("f1"), cut.get("mean_length")]
        figures += [calibrated["error"] if calibrated else None, errors.get("all") if errors else None]
        rows.append([labels(report)[model["model"]], *map(_number, figures)])
    header = ["model", "threshold", "precision", "recall", "F1", "tags a post", "calibration error", "over all pairs"]
    description = "Cut at the score that is best on validation"
    return page_section("scores", "What a score is worth", [page_table(header, rows, description)])


def _slices(report: EvaluationReport) -> Section:
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
    description = f"R@{k} of the uses of true tags, by how often the train posts have them"
    tables = [page_table(header, rows), page_table(["tags", *header[1:]], tails, description)]
    return page_section("slices", "Kinds of posts and of tags", tables)


def _confused(report: EvaluationReport) -> Section:
    tables = []
    for model in rank_models(report):
        rows = [
            [row["true"], row["given"], f"{row['posts']}", f"{row['lift']:.1f}"] for row in model.get("confused") or []
        ]
        header = ["true tag that is missing", "given instead", "posts", "times chance"]
        tables.append(page_table(header, rows, labels(report)[model["model"]], folded=True))
    description = (
        "Pairs that occur together more often than chance has it: candidates for synonyms, or tags that look alike."
    )
    return page_section("confused", "Tags confused with each other", tables, description)


def _cost(report: EvaluationReport) -> Section:
    rows = [
        [
            labels(report)[model["model"]],
            f"{model['parameters']:,}",
            f"{model['seconds']:.1f}",
            ", ".join(f"{count} {status}" for status, count in model["statuses"].items()),
        ]
        for model in rank_models(report)
    ]
    description = "Seconds are those of this evaluation: reading, encoding what was not cached, ranking."
    tables = [page_table(["model", "parameters", "seconds", "posts by status"], rows)]
    return page_section("cost", "Cost against quality", tables, description)


def _catalogue(report: EvaluationReport) -> Section:
    header = ["model", "coverage", "Gini", "novelty, bits"]
    rows = [
        [labels(report)[model["model"]], *[_number(model["metrics"][name]) for name in ("coverage", "gini", "novelty")]]
        for model in rank_models(report)
    ]
    return page_section("catalogue", "Coverage and novelty", [page_table(header, rows)])


def _learning() -> Section:
    return page_section("learning", "Learning curves")


def _reading(report: EvaluationReport) -> Section:
    rows = [[name, text] for name, text in PROTOCOL_TEXT.items()]
    rows += [
        ["F1", "harmonic mean of mean precision and mean recall; an empty place in a list is a miss"],
        ["coverage", "share of the vocabulary that is recommended at all"],
        ["Gini", "of how often each tag is given: 0 all alike, towards 1 few tags"],
        ["novelty", "mean of -log2(share of train posts with the tag) over what is given"],
    ]
    return page_section("reading", "How to read this", [page_table(["word", "meaning"], rows)])
