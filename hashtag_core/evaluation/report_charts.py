"""Charts of the report of `evaluate`, drawn in the colours of the page (see `pages`)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from hashtag_core.evaluation.pages import INK, MUTED, PAPER, SERIES, SVG_SETTINGS, Chart, themed_svg
from hashtag_core.evaluation.report import main_k, rank_models
from hashtag_core.evaluation.report_record import EvaluationReport, ModelRecord
from hashtag_core.json_values import Options

MARKERS = "os^vDPX"
STYLES = ("-", "--", ":", "-.")
CURVES = {"f1": "F1", "precision": "precision", "recall": "recall", "ndcg": "nDCG"}
WIDTH, HEIGHT = 5.6, 3.7
MOST_PAIRS = 12


def labels(report: EvaluationReport) -> dict[str, str]:
    """A short name of each model: its family, with the version where two share one."""
    models = rank_models(report)
    families = [model["family"] for model in models]
    return {
        model["model"]: model["family"]
        if families.count(model["family"]) == 1
        else f"{model['family']} {model['version']}"
        for model in models
    }


def report_charts(report: EvaluationReport) -> dict[str, list[Chart]]:
    """Charts by section, each with `svg` and `description`; a chart that would be empty is left out."""
    k = main_k(report["ks"])
    with mpl.rc_context(SVG_SETTINGS):
        made: dict[str, list[Chart | None]] = {
            "leaderboard": [_intervals(report, k)],
            "curves": [_over_k(report, metric, label) for metric, label in CURVES.items()],
            "scores": [_precision_recall(report), _calibration(report)],
            "slices": [_slices(report, k)],
            "cost": [_cost(report, k, "parameters", "parameters"), _cost(report, k, "seconds", "seconds to judge")],
            "catalogue": [_catalogue(report)],
            "learning": _learning(report),
            "confused": [_confused(report)],
        }
    return {section: [chart for chart in charts if chart] for section, charts in made.items()}


def _chart(figure: Figure, name: str, description: str) -> Chart:
    return {"svg": themed_svg(figure, name, description), "description": description}


def _styled(report: EvaluationReport) -> list[tuple[ModelRecord, str, Options]]:
    """Each model with its label and how its line is drawn: colour, sign and stroke differ, so that no one needs colours."""
    named = labels(report)
    return [
        (
            model,
            named[model["model"]],
            {
                "color": SERIES[index % len(SERIES)],
                "marker": MARKERS[index % len(MARKERS)],
                "linestyle": STYLES[index // len(SERIES) % len(STYLES)],
                "markersize": 4,
                "linewidth": 1.4,
            },
        )
        for index, model in enumerate(rank_models(report))
    ]


def _figure(height: float = HEIGHT) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure, panel: Any, models: int) -> None:
    if models > 1:
        figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)


def _intervals(report: EvaluationReport, k: int) -> Chart:
    models = rank_models(report)
    figure, panel = _figure(1.1 + 0.32 * len(models))
    named = labels(report)
    for index, model in enumerate(models):
        bounds = model["intervals"].get("headline", {}).get(f"f1_at_{k}")
        if bounds:
            panel.plot(bounds, [index, index], color=MUTED, linewidth=3, solid_capstyle="butt")
        panel.plot(model["metrics"][f"f1_at_{k}"], index, "o", color=SERIES[index % len(SERIES)], markersize=7)
    panel.set_yticks(range(len(models)), [named[model["model"]] for model in models])
    panel.set(ylim=(len(models) - 0.5, -0.5), xlim=(0, None), xlabel=f"F1@{k}")
    panel.grid(axis="y", visible=False)
    return _chart(figure, "intervals", f"F1@{k} of every model, best first; the bar is its 95 % interval")


def _over_k(report: EvaluationReport, metric: str, label: str) -> Chart:
    figure, panel = _figure()
    ks = report["ks"]
    for model, name, style in _styled(report):
        panel.plot(ks, [model["metrics"][f"{metric}_at_{k}"] for k in ks], label=name, **style)
    panel.set(xlabel="K", ylabel=f"{label} at K", ylim=(0, None), xticks=ks)
    _legend(figure, panel, len(report["models"]))
    return _chart(figure, f"over-{metric}", f"{label} over the number of tags that are given (protocol headline)")


def _precision_recall(report: EvaluationReport) -> Chart | None:
    figure, panel = _figure()
    drawn = 0
    for model, name, style in _styled(report):
        points = model.get("precision_recall") or []
        if points:
            plain = {**style, "marker": None, "linestyle": STYLES[drawn % len(STYLES)]} if len(points) > 1 else style
            panel.plot([point[2] for point in points], [point[1] for point in points], label=name, **plain)
            drawn += 1
    if not drawn:
        return None
    panel.set(xlabel="recall", ylabel="precision", xlim=(0, None), ylim=(0, 1.02))
    _legend(figure, panel, drawn)
    return _chart(
        figure,
        "precision-recall",
        "Precision and recall of all tags whose score reaches a threshold, which falls from left to right",
    )


def _calibration(report: EvaluationReport) -> Chart | None:
    figure, panel = _figure()
    drawn = 0
    for model, name, style in _styled(report):
        calibrated = model.get("calibration")
        if calibrated and calibrated["bins"]:
            bins, label = calibrated["bins"], f"{name} ({calibrated['error']:.2f})"
            panel.plot([one["mean_score"] for one in bins], [one["hit_share"] for one in bins], label=label, **style)
            drawn += 1
    if not drawn:
        return None
    panel.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1)
    panel.set(xlabel="mean score", ylabel="share that is true", xlim=(0, 1), ylim=(0, 1))
    _legend(figure, panel, 2)
    description = "How often a tag of a score is true; on the dotted line a score is a probability. In brackets the expected calibration error"
    return _chart(figure, "calibration", description)


def _slices(report: EvaluationReport, k: int) -> Chart | None:
    models, named = rank_models(report), labels(report)
    names = list(dict.fromkeys(name for model in models for name in model["slices"]))
    if not names:
        return None
    figure, panel = _figure(1.0 + 0.42 * len(names))
    height = 0.8 / len(models)
    for index, model in enumerate(models):
        values = [model["slices"].get(name, {}).get(f"f1_at_{k}", 0.0) for name in names]
        at = np.arange(len(names)) - 0.4 + height * (index + 0.5)
        panel.barh(at, values, height * 0.9, color=SERIES[index % len(SERIES)], label=named[model["model"]])
    posts = {name: max(int(m["slices"].get(name, {}).get("posts", 0)) for m in models) for name in names}
    panel.set_yticks(range(len(names)), [f"{name} ({posts[name]})" for name in names])
    panel.set(ylim=(len(names) - 0.5, -0.5), xlabel=f"F1@{k}")
    panel.grid(axis="y", visible=False)
    _legend(figure, panel, len(models))
    return _chart(figure, "slices", f"F1@{k} by kind of post; in brackets the number of posts")


def _cost(report: EvaluationReport, k: int, key: Literal["parameters", "seconds"], label: str) -> Chart | None:
    if len(report["models"]) < 2:
        return None
    figure, panel = _figure()
    for model, name, style in _styled(report):
        panel.plot(
            max(float(model[key]), 1e-3), model["metrics"][f"f1_at_{k}"], **{**style, "markersize": 8, "linestyle": ""}
        )
        where = (max(float(model[key]), 1e-3), model["metrics"][f"f1_at_{k}"])
        panel.annotate(name, where, xytext=(6, 5), textcoords="offset points", fontsize=9, color=INK)
    values = [max(float(model[key]), 1e-3) for model in report["models"]]
    if max(values) >= 10 * min(values):
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value / 1e6:,g} M")
        )
    panel.set(xlabel=label, ylabel=f"F1@{k}", ylim=(0, None))
    panel.margins(x=0.25)
    return _chart(figure, f"cost-{key}", f"F1@{k} against {label}")


def _catalogue(report: EvaluationReport) -> Chart | None:
    if len(report["models"]) < 2:
        return None
    figure, panel = _figure()
    for model, name, style in _styled(report):
        where = (model["metrics"]["coverage"], model["metrics"]["novelty"])
        panel.plot(*where, **{**style, "markersize": 8, "linestyle": ""})
        panel.annotate(name, where, xytext=(6, 5), textcoords="offset points", fontsize=9, color=INK)
    panel.set(
        xlabel="coverage: share of the vocabulary that is given at all", ylabel="novelty, bits", xlim=(-0.03, 1.15)
    )
    return _chart(
        figure, "catalogue", "How much of the vocabulary a model uses, and how rare the tags are that it gives"
    )


def _confused(report: EvaluationReport) -> Chart | None:
    """Of the first model that has any."""
    for model in rank_models(report):
        pairs = sorted((model.get("confused") or [])[:MOST_PAIRS], key=lambda pair: -int(pair["posts"]))
        if pairs:
            figure, panel = _figure(1.0 + 0.3 * len(pairs))
            panel.barh(range(len(pairs)), [pair["posts"] for pair in pairs], color=SERIES[0], edgecolor=PAPER)
            panel.set_yticks(range(len(pairs)), [f"{pair['true'][:24]} → {pair['given'][:24]}" for pair in pairs])
            panel.set(ylim=(len(pairs) - 0.4, -0.6), xlabel="posts")
            panel.grid(axis="y", visible=False)
            name = labels(report)[model["model"]]
            return _chart(figure, "confused", f"{name}: the true tag that is missing → the one that is given instead")
    return None


def _learning(report: EvaluationReport) -> list[Chart | None]:
    made: list[Chart | None] = []
    for index, (model, name, _) in enumerate(_styled(report)):
        history = model.get("learning") or {}
        if len(history.get("train_loss", ())) < 2:
            continue
        figure, panel = _figure(3.0)
        for key, style in (("train_loss", "-"), ("validation_loss", "--")):
            values: Sequence[float] = history.get(key, ())
            label = key.replace("_", " ")
            panel.plot(
                range(1, len(values) + 1), values, style, color=SERIES[index % len(SERIES)], label=label, marker="."
            )
        panel.set(xlabel="epoch", ylabel="loss", title=name)
        _legend(figure, panel, 2)
        made.append(_chart(figure, f"learning-{index}", f"Losses of {name} over the epochs"))
    return made


def bars(values: Mapping[str, float], name: str, description: str, unit: str) -> Chart:
    """One bar a name, in the order given."""
    with mpl.rc_context(SVG_SETTINGS):
        figure, panel = _figure(0.9 + 0.3 * len(values))
        panel.barh(range(len(values)), list(values.values()), color=SERIES[0], edgecolor=PAPER)
        panel.set_yticks(range(len(values)), list(values))
        panel.set(ylim=(len(values) - 0.4, -0.6), xlabel=unit)
        panel.grid(axis="y", visible=False)
        return _chart(figure, name, description)


def lines(values: Sequence[float], name: str, description: str, unit: str) -> Chart:
    """The values in order, the last one marked."""
    with mpl.rc_context(SVG_SETTINGS):
        figure, panel = _figure(2.6)
        panel.plot(range(len(values)), values, color=SERIES[0], marker=".", linewidth=1.4)
        panel.plot([len(values) - 1], [values[-1]], "o", color=SERIES[1], markersize=7, clip_on=False)
        panel.set(ylabel=unit, ylim=(0, None), xticks=[])
        panel.grid(axis="x", visible=False)
        return _chart(figure, name, description)
