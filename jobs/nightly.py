"""A night: tag what is new with the champion, tell the drift, once a week train anew and let the gates decide.

    python jobs/nightly.py --archive URI --dataset URI --out URI --recipe FILE [--retrain-days 7] [--gates FILE]

Each step is a job of its own, called as one calls it by hand, so that its exit code, its logs and its Ray are its own:

    tag the new parts with the champion -> drift -> every N days: prepare DATASET/<date> -> train -> promote

While there is no champion, training and the gates come first. What is done is seen in the registry (a version's dataset
tells its date, its tags whether it was judged) and in the output: called again, the same night goes on where it broke off
and does nothing twice. A challenger that the gates refuse is no failure: the champion stays. --date makes it another day.
"""

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core import storage
from hashtag_core.errors import GateRefused, HashtagError, UsageError
from hashtag_core.tracking.registry import champion, list_versions, model_uri
from hashtag_core.tracking.runs import newest_metric
from jobs.archive_flags import add_archive_flags, archive_arguments, recipe_with_archive
from jobs.common import DONE, USAGE, JobParser, add_common_arguments, run

logger = logging.getLogger("hashtag_core.jobs")

REFUSED = GateRefused.exit_code


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="nightly", description=__doc__)
    parser.add_argument("--archive", metavar="URI", required=True, help="the archive that grows")
    add_archive_flags(parser)
    parser.add_argument(
        "--dataset", metavar="URI", required=True, help="folder for the datasets, one a training: URI/<date>"
    )
    parser.add_argument("--out", metavar="URI", required=True, help="the tagged output")
    parser.add_argument("--gates", metavar="FILE", help="as of jobs/promote.py")
    parser.add_argument("--extra-tags", metavar="FILE", help="as of jobs/tag.py")
    parser.add_argument(
        "--retrain-days", type=int, default=7, metavar="N", help="train anew after so many days (default: 7)"
    )
    parser.add_argument("--date", metavar="DATE", help="the day that it is, as 2026-01-31 (default: today, UTC)")
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _nightly, argv)


def _nightly(arguments: argparse.Namespace) -> Mapping[str, object]:
    recipe = recipe_with_archive(arguments)
    today, name = _day(arguments.date), recipe.tracking.model_name
    if arguments.retrain_days < 1:
        build_parser().error(f"--retrain-days {arguments.retrain_days}: expected at least 1")
    night: dict[str, Any] = {"date": today.isoformat(), "tagged": None, "drift": None, "trained": None, "gates": None}
    due = _training_is_due(name, arguments.dataset, today, arguments.retrain_days)
    if arguments.dry_run:
        return {**night, "dry_run": True, "champion": _champion_uri(name), "training_is_due": due}
    if champion(name) is None:
        logger.info("no champion yet: training comes before tagging")
        night |= _train(arguments, today) if due else {}
        night |= _judge(arguments, name)
        due = False
    read = archive_arguments(arguments)
    extra = ["--extra-tags", arguments.extra_tags] if arguments.extra_tags else []
    night["tagged"] = _job("tag", arguments, "--archive", arguments.archive, *read, "--out", arguments.out, *extra)
    if night["tagged"]["parts"]:
        night["drift"] = newest_metric(recipe.tracking.experiment, {"job": "tag"}, "drift_psi")
        if night["drift"] is not None and night["drift"] > recipe.tagging.drift_warning:
            logger.warning("the tags drifted by %.3f since the last run (tagging.drift_warning)", night["drift"])
    if due:
        night |= _train(arguments, today)
    night |= _judge(arguments, name)
    return {**night, "champion": _champion_uri(name)}


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        build_parser().error(f"--date {text}: expected a day as 2026-01-31")
        raise


def _champion_uri(name: str) -> str | None:
    version = champion(name)
    return None if version is None else model_uri(name, version)


def _trained(name: str, root: str) -> dict[date, tuple[str, dict[str, str]]]:
    """The newest version of every date that was trained for, by the datasets that the versions name."""
    found = {}
    for version, tags in list_versions(name):
        folder, _, day = tags.get("dataset", "").rpartition("/")
        if folder == _absolute(root):
            try:
                found[date.fromisoformat(day)] = version, tags
            except ValueError:
                continue
    return found


def _absolute(root: str) -> str:
    return root.rstrip("/") if storage.is_remote(root) else str(Path(storage.local_path(root)).absolute())


def _training_is_due(name: str, root: str, today: date, days: int) -> bool:
    trained = _trained(name, root)
    return not trained or (today - max(trained)).days >= days


def _train(arguments: argparse.Namespace, today: date) -> Mapping[str, object]:
    dataset = storage.join(_absolute(arguments.dataset), today.isoformat())
    read = archive_arguments(arguments)
    _job("prepare", arguments, "--archive", arguments.archive, *read, "--dataset", dataset)
    return {"trained": _job("train", arguments, "--dataset", dataset)["model"]}


def _judge(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """Let the gates decide on the newest version that nobody has judged yet; nothing where there is none.

    GateRefused where they refuse and there is no champion to go on with.
    """
    trained = _trained(name, arguments.dataset)
    if not trained:
        return {}
    version, tags = trained[max(trained)]
    if "gates" in tags or version == champion(name):
        if champion(name) is None:
            raise GateRefused(
                f"there is no champion, and {model_uri(name, version)} was refused: {tags.get('gates.run', '')}"
            )
        return {}
    gates = ["--gates", arguments.gates] if arguments.gates else []
    uri = model_uri(name, version)
    summary = _job(
        "promote", arguments, "--dataset", tags["dataset"], "--challenger", uri, *gates, allowed=(DONE, REFUSED)
    )
    refused = [gate["name"] for gate in summary["gates"] if not gate["passed"]]
    if champion(name) is None:
        raise GateRefused(f"{uri} is refused ({', '.join(refused)}), and there is no champion to tag with")
    return {"gates": {"challenger": uri, "promoted": summary["promoted"], "refused_by": refused}}


def _job(job: str, arguments: argparse.Namespace, *flags: str, allowed: Sequence[int] = (DONE,)) -> dict[str, Any]:
    """Run a job with this night's recipe; its summary. HashtagError, of its exit code, where it fails."""
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *flags]
    if arguments.recipe:
        command += ["--recipe", arguments.recipe]
    for override in arguments.overrides:
        command += ["--set", override]
    command += ["--log-format", arguments.log_format, *(["--verbose"] if arguments.verbose else [])]
    logger.info("── %s %s", job, " ".join(flags))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode not in allowed or not lines:
        kind = UsageError if done.returncode == USAGE else HashtagError
        raise kind(
            f"{job} ended with exit code {done.returncode}: what it said stands above; nothing after it was begun"
        )
    summary: dict[str, Any] = json.loads(lines[-1])
    return summary


if __name__ == "__main__":
    sys.exit(main())
