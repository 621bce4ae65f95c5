"""Dataset + models -> ranking metrics and a leaderboard.

    python jobs/evaluate.py --dataset URI --model MODEL [--model MODEL ...] --report DIR

MODEL is models:/NAME/VERSION, models:/NAME@ALIAS or a model folder. The report folder (local or s3://) gets
report.html to look at (figures, curves, and the posts with what each model gives them), leaderboard.md, leaderboard.json and, for every
model, each post's ranked list as Parquet. --set evaluation.gallery_posts=0 leaves the posts out of the page.
"""

import argparse
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jobs.common import JobParser, add_common_arguments, recipe_of, run

if TYPE_CHECKING:
    from hashtag_core.judging.report import EvaluateSummary

logger = logging.getLogger("hashtag_core.jobs")


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="evaluate", description=__doc__)
    parser.add_argument("--dataset", metavar="URI", required=True, help="what jobs/prepare.py wrote")
    parser.add_argument(
        "--model", dest="models", metavar="MODEL", action="append", required=True, help="a model; may be given again"
    )
    parser.add_argument("--report", metavar="DIR", required=True, help="folder to write the leaderboard to")
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _evaluate, argv)


def _evaluate(arguments: argparse.Namespace) -> Mapping[str, object]:
    recipe = recipe_of(arguments)
    from hashtag_core.distributed.evaluate import evaluate  # torch and Ray: seconds to import
    from hashtag_core.judging.check import check_evaluation

    if not arguments.dry_run:
        return _told(evaluate(arguments.dataset, arguments.models, arguments.report, recipe), recipe.evaluation.ks)
    dataset, models = check_evaluation(arguments.dataset, arguments.models, recipe)
    split = recipe.evaluation.split
    logger.info("would judge %s on %d %s posts of %s", ", ".join(models), dataset.info.posts[split], split, dataset.uri)
    return {"models": [{"model": model} for model in models], "report": arguments.report, "dry_run": True}


def _told(summary: "EvaluateSummary", ks: list[int]) -> Mapping[str, object]:
    """What stdout gets: figures at the least, the main and the largest K, and of the other protocols those to look at first. All of
    them are in the report's `leaderboard.json`."""
    from hashtag_core.evaluation.report import main_figures, main_k

    shown = {min(ks), main_k(ks), max(ks)}
    models = [
        {
            "model": row["model"],
            "metrics": {name: value for name, value in row["metrics"].items() if _k_of(name) in shown | {None}},
            "papers": main_figures(row["papers"], ks),
            "floor": main_figures(row["floor"], ks),
        }
        for row in summary["models"]
    ]
    return {"models": models, "report": summary["report"]}


def _k_of(name: str) -> int | None:
    """The K of a figure at K; None for one that has none."""
    found = re.search(r"_at_(\d+)(?:_|$)", name)
    return int(found[1]) if found else None


if __name__ == "__main__":
    sys.exit(main())
