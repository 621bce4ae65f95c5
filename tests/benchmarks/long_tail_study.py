"""What the losses for rare tags do to common and rare ones: each family as its small recipe has it, and with one loss changed.

    python tests/benchmarks/long_tail_study.py ../shared/data/openclipart tagnet,lstm_cnn --split by_user --set split.test=0.25

What follows the families are flags of `jobs/leaderboard.py`, which trains and judges (what is done stays in its folder). Prints a
table: F1@5 of the test split, and recall@5 of the third of all uses of tags that the commonest hold (head), the next and the rarest
third (tail).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "leaderboard"
LOSSES = {
    "asymmetric": 'tag_loss = "asymmetric"',
    "class_balance": "class_balance = 0.999",
    "logit_adjustment": "logit_adjustment = 1.0",
    "label_smoothing": "label_smoothing = 0.1",
}


def write_recipes(families: list[str], folder: Path) -> list[Path]:
    """A recipe for each family and loss."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for family in families:
        text = (ROOT / "jobs" / "recipes" / f"{family}_small.toml").read_text(encoding="utf-8")
        for loss, line in LOSSES.items():
            files.append(folder / f"{family}_{loss}.toml")
            files[-1].write_text(text.replace("[model]\n", f"[model]\n{line}\n", 1), encoding="utf-8")
    return files


def table(entries: list[dict[str, Any]], families: list[str]) -> list[str]:
    """Lines of Markdown: a row a family and loss."""
    found = {entry["name"]: entry for entry in entries}
    lines = ["| family | loss | F1@5 | head | middle | tail |", "|---|---|---|---|---|---|"]
    for family in families:
        for loss in ("bce", *LOSSES):
            entry = found.get(family if loss == "bce" else f"{family}_{loss}")
            if entry is None or entry["status"] != "done":
                lines.append(f"| {family} | {loss} | {entry['status'] if entry else 'not there'} | | | |")
                continue
            parts = [entry["tags"][part]["recall_at_5"] for part in ("head", "middle", "tail")]
            figures = [entry["metrics"]["headline"]["f1_at_5"], *parts]
            lines.append(f"| {family} | {loss} | " + " | ".join(f"{value:.3f}" for value in figures) + " |")
    return lines


def main() -> None:
    archive, families, *flags = sys.argv[1:]
    names = families.split(",")
    name = f"long-tail-{Path(archive).name}"
    recipes = write_recipes(names, OUT / name / "recipes")
    command = [sys.executable, str(ROOT / "jobs" / "leaderboard.py"), "--archive", archive, "--name", name]
    command += ["--families", families, "--recipes", *map(str, recipes), *flags]
    subprocess.run(command, check=True, cwd=ROOT)
    report = json.loads((OUT / name / "report" / "report.json").read_text(encoding="utf-8"))
    print("\n".join(table(report["entries"], names)))


if __name__ == "__main__":
    main()
