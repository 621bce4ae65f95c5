"""The pictures of the side-by-side report, as SVG text: what the articles' figures 3 and 4 show, for every system.

Letters stay letters and nothing of the day or the machine is in a file, so that a rerun with the same figures gives the
same file.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from hashtag_core.evaluation.board_page import FLOORS, METRICS, learning_curves
from hashtag_core.evaluation.board_record import BoardEntry, BoardReport
from hashtag_core.evaluation.board_sections import done_entries
from hashtag_core.evaluation.metrics import PROTOCOLS
from hashtag_core.evaluation.report import main_k
from hashtag_core.json_values import Options

SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hashtag",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6eaef",
    "axes.axisbelow": True,
}
DIGITS = re.compile(r"(\.\d\d)\d+")
"""What of a coordinate no eye can see: a third of a file."""
MARKERS = "os^vDPX"
LEARNING_COLUMNS = 4


def report_figures(report: BoardReport) -> dict[str, str]:
    """SVG texts by file name; a picture that would be empty is left out."""
    drawn: dict[str, Figure] = {}
    with mpl.rc_context(SETTINGS):
        done = done_entries(report)
        if done:
            drawn["systems.svg"] = _systems(report, done)
            drawn["curves.svg"] = _over_k(report, done)
            drawn["slices.svg"] = _slices(report, done)
        if len(done) > 1:
            drawn["cost.svg"] = _cost(report, done)
        learned = [entry for entry in done if len(entry["history"].get("train_loss", ())) > 1]
        if learned:
            drawn["learning.svg"] = _learning(learned)
        if learning_curves(report):
            drawn["shares.svg"] = _shares(report, done)
        return {name: _svg(figure) for name, figure in drawn.items()}


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    short = DIGITS.sub(r"\1", text.getvalue())
    return "\n".join(line.rstrip() for line in short.splitlines()) + "\n"


def _styles(done: Sequence[BoardEntry]) -> Iterator[tuple[BoardEntry, Options]]:
    """A line style for each system: the floors black and broken, the others by colour and marker."""
    broken = dict(zip(FLOORS, (":", "--"), strict=True))
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    index = 0
    for entry in done:
        if entry["name"] in broken:
            yield entry, {"color": "black", "linestyle": broken[entry["name"]], "linewidth": 1.6, "zorder": 4}
            continue
        marker = MARKERS[index // len(colours) % len(MARKERS)]
        yield entry, {"color": colours[index % len(colours)], "marker": marker, "markersize": 4, "linewidth": 1.1}
        index += 1


def _cost(report: BoardReport, done: Sequence[BoardEntry]) -> Figure:
    """F1 over the seconds of training, a mark and a name for each system."""
    key = f"f1_at_{main_k(report['ks'])}"
    figure = Figure(figsize=(9, 5), layout="constrained")
    panel = figure.subplots()
    for entry in done:
        at = max(entry["train_seconds"], 0.5), entry["metrics"]["headline"][key]
        panel.plot(*at, marker="o", color="black" if entry["kind"] == "fitted" else "#0a58ca", markersize=4)
        panel.annotate(entry["name"], at, xytext=(4, 3), textcoords="offset points", fontsize=7)
    panel.set_xscale("log")
    panel.set(xlabel="seconds of training (black: fitted once, blue: by gradient)", ylabel=f"F1@{main_k(report['ks'])}")
    return figure


def _over_k(report: BoardReport, done: Sequence[BoardEntry]) -> Figure:
    """Four panels, one a metric, with one legend in the order of the table."""
    ks = report["ks"]
    figure = Figure(figsize=(11.5, 7.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for panel, (metric, label) in zip(panels, METRICS.items(), strict=True):
        for entry, style in _styles(done):
            values = [entry["metrics"]["headline"][f"{metric}_at_{k}"] for k in ks]
            panel.plot(ks, values, label=entry["name"], **style)
        panel.set(title=f"{label} (headline)", ylim=(0, None))
        panel.set_xticks(ks)
    for panel in panels[2:]:
        panel.set_xlabel("K")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return figure


def _systems(report: BoardReport, done: Sequence[BoardEntry]) -> Figure:
    """F1 with its interval, best first; the other protocols as hollow signs."""
    key = f"f1_at_{main_k(report['ks'])}"
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(done)), layout="constrained")
    panel = figure.subplots()
    places = np.arange(len(done))
    values = np.array([entry["metrics"]["headline"][key] for entry in done])
    bounds = [entry["intervals"].get("headline", {}).get(key) for entry in done]
    for index, bound in zip(places, bounds, strict=True):
        if bound:
            panel.plot(bound, [index, index], color="#8a94a0", linewidth=2, zorder=2)
    neural = np.array([entry["kind"] == "neural" for entry in done])
    for chosen, colour, label in ((neural, "#0a58ca", "neural"), (~neural, "#111111", "fitted once")):
        panel.scatter(values[chosen], places[chosen], color=colour, s=28, zorder=3, label=f"{label}, headline")
    for protocol, marker in zip([name for name in PROTOCOLS if name != "headline"], "s^", strict=True):
        others = [entry["metrics"][protocol][key] for entry in done]
        panel.scatter(others, places, marker=marker, s=18, facecolors="none", edgecolors="#8a94a0", label=protocol)
    panel.set_yticks(places, [entry["name"] for entry in done])
    panel.set(
        xlabel=f"F1@{main_k(report['ks'])} (95 % interval: headline)", xlim=(0, None), ylim=(len(done) - 0.4, -0.6)
    )
    panel.grid(axis="y", visible=False)
    panel.legend(frameon=False, loc="lower right")
    return figure


def _slices(report: BoardReport, done: Sequence[BoardEntry]) -> Figure:
    """F1 of every system on every kind of post, shaded."""
    key = f"f1_at_{main_k(report['ks'])}"
    names = list(dict.fromkeys(name for entry in done for name in entry["slices"]))
    values = np.array([[entry["slices"].get(name, {}).get(key, np.nan) for name in names] for entry in done])
    figure = Figure(figsize=(2.6 + 0.95 * len(names), 1.6 + 0.26 * len(done)), layout="constrained")
    panel = figure.subplots()
    panel.grid(visible=False)
    shown = panel.imshow(values, aspect="auto", cmap="Blues", vmin=0)
    middle = np.nanmax(values, initial=0.0) * 0.6
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > middle else "#1b1f24"
            panel.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    panel.set_xticks(range(len(names)), [name.replace(" of ", "\nof ").replace(" image", "\nimage") for name in names])
    panel.set_yticks(range(len(done)), [entry["name"] for entry in done])
    panel.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    figure.colorbar(shown, label=f"F1@{main_k(report['ks'])} (headline)", fraction=0.03)
    return figure


def _learning(learned: Sequence[BoardEntry]) -> Figure:
    """A panel a system: both losses (left, each family has its own unit), and the figure that the epoch is chosen by."""
    rows = -(-len(learned) // LEARNING_COLUMNS)
    figure = Figure(figsize=(12, 0.6 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, LEARNING_COLUMNS, squeeze=False).ravel()
    for panel in panels[len(learned) :]:
        panel.set_axis_off()
    for panel, entry in zip(panels, learned, strict=False):
        history: Mapping[str, Sequence[float]] = entry["history"]
        epochs = np.arange(1, len(history["train_loss"]) + 1)
        panel.plot(epochs, history["train_loss"], color="#8a94a0", label="train loss")
        panel.plot(epochs, history["validation_loss"], color="#8a94a0", linestyle="--", label="validation loss")
        panel.tick_params(axis="y", labelcolor="#68717b", labelsize=7)
        panel.tick_params(axis="x", labelsize=7)
        panel.grid(visible=False)
        panel.set_title(entry["name"], fontsize=9)
        right = panel.twinx()
        right.plot(epochs, history["selected_by"], color="#0a58ca", label="validation figure")
        right.axvline(entry["best_epoch"], linestyle=":", color="#0a58ca", linewidth=0.9)
        right.tick_params(axis="y", labelcolor="#0a58ca", labelsize=7)
        right.set_ylim(0, None)
        right.grid(visible=False)
    lines = [line for item in (panel, right) for line in item.get_lines() if not line.get_label().startswith("_")]
    figure.legend(lines, [line.get_label() for line in lines], loc="outside lower center", ncols=3, frameon=False)
    return figure


def _shares(report: BoardReport, done: Sequence[BoardEntry]) -> Figure:
    """F1 over the number of train posts, with intervals, of the systems that were taught by shares of them."""
    key = f"f1_at_{main_k(report['ks'])}"
    curves = learning_curves(report)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panel = figure.subplots()
    for entry, style in _styles([entry for entry in done if entry["name"] in curves]):
        points = curves[entry["name"]]
        posts = [point["train_share"] * report["data"]["posts"]["train"] for point in points]
        values = [point["metrics"]["headline"][key] for point in points]
        panel.plot(posts, values, label=entry["name"], **style)
        bounds = [point["intervals"].get("headline", {}).get(key) for point in points]
        if all(bounds):
            low, high = zip(*bounds, strict=True)
            panel.fill_between(posts, low, high, color=style["color"], alpha=0.08, linewidth=0)
    panel.set(xlabel="train posts", ylabel=f"F1@{main_k(report['ks'])} (headline)", xlim=(0, None), ylim=(0, None))
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure
