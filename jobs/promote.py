"""Challenger against champion -> gates -> the alias `champion` moves, or exit code 3.

    python jobs/promote.py --dataset URI --challenger MODEL [--gates FILE] [--force REASON]
    python jobs/promote.py --shadow --challenger MODEL --archive URI [--since DATE] [--posts N] [--report DIR]
    python jobs/promote.py --rollback
    python jobs/promote.py --explain MODEL

MODEL is a registered version, models:/NAME/VERSION or models:/NAME@ALIAS. FILE is a TOML file with a [gates] table,
which goes over the recipe's; --set goes over both. --force promotes past what the gates refuse and records the reason.
--shadow moves nothing: challenger and champion tag a sample of an archive, and the report says where they differ.
--rollback gives the alias back to the champion before this one. --explain tells where a model comes from: its run, commit,
recipe, dataset and the parts of its archive.
"""

import argparse
import logging
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core.config import GatesSection, Recipe, parse_override, validate_section
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.tracking.registry import lineage, lineage_lines
from jobs.common import JobParser, add_common_arguments, recipe_of, run

logger = logging.getLogger("hashtag_core.jobs")


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="promote", description=__doc__)
    parser.add_argument("--dataset", metavar="URI", help="what jobs/prepare.py wrote; both models are judged on it")
    parser.add_argument("--challenger", metavar="MODEL", help="the version that is to become champion")
    parser.add_argument("--gates", metavar="FILE", help="TOML file with a [gates] table")
    parser.add_argument("--force", metavar="REASON", help="promote though a gate refuses, and record why")
    parser.add_argument("--rollback", action="store_true", help="return to the champion before this one")
    parser.add_argument("--shadow", action="store_true", help="compare with the champion on a sample of --archive")
    parser.add_argument("--archive", metavar="URI", help="with --shadow: the archive, as of jobs/tag.py")
    parser.add_argument("--since", metavar="DATE", help="with --shadow: of parts modified then or later, as 2026-01-31")
    parser.add_argument(
        "--posts", type=int, default=500, metavar="N", help="with --shadow: how many posts (default: 500)"
    )
    parser.add_argument(
        "--report", metavar="DIR", help="with --shadow: a folder for the page (it is in MLflow as well)"
    )
    parser.add_argument("--explain", metavar="MODEL", help="tell where a model comes from, and change nothing")
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _promote, argv)


def _promote(arguments: argparse.Namespace) -> Mapping[str, object]:
    recipe = recipe_of(arguments)
    judging = bool(arguments.challenger or arguments.dataset or arguments.gates or arguments.force is not None)
    if arguments.explain:
        if judging or arguments.rollback:
            build_parser().error("--explain changes nothing: leave the other flags out")
        chain = lineage(arguments.explain)
        for line in lineage_lines(chain):
            logger.info("%s", line)
        return chain
    if arguments.shadow:
        return _shadow(arguments, recipe)
    if arguments.archive or arguments.since or arguments.report:
        build_parser().error("--archive, --since and --report: only with --shadow")
    from hashtag_core.distributed.promote import describe_promotion, plan_promote, promote, roll_back  # torch and Ray

    if arguments.rollback:
        if judging:
            build_parser().error("--rollback judges nothing: leave --challenger, --dataset, --gates and --force out")
        return roll_back(recipe.tracking.model_name, dry_run=arguments.dry_run)
    if not (arguments.challenger and arguments.dataset):
        build_parser().error("give --dataset and --challenger, or --rollback, or --explain")
    if arguments.force is not None and not arguments.force.strip():
        build_parser().error("--force: say why")
    if arguments.gates:
        recipe = _with_gates(recipe, arguments.gates, arguments.overrides)
    plan = plan_promote(arguments.dataset, arguments.challenger, recipe)
    return describe_promotion(plan) if arguments.dry_run else promote(plan, arguments.force)


def _shadow(arguments: argparse.Namespace, recipe: Recipe) -> Mapping[str, object]:
    if not (arguments.challenger and arguments.archive):
        build_parser().error("--shadow needs --challenger and --archive")
    if arguments.dataset or arguments.gates or arguments.force is not None or arguments.rollback:
        build_parser().error("--shadow moves nothing: leave --dataset, --gates, --force and --rollback out")
    if arguments.posts < 1:
        build_parser().error(f"--posts {arguments.posts}: expected at least 1")
    since = None if arguments.since is None else _moment(arguments.since)
    from hashtag_core.promotion.shadow import shadow  # torch

    how = {"posts": arguments.posts, "since": since, "report": arguments.report}
    if arguments.dry_run:
        return {
            "dry_run": True,
            "challenger": arguments.challenger,
            "archive": arguments.archive,
            "posts": arguments.posts,
        }
    return shadow(arguments.archive, arguments.challenger, recipe, **how)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ConfigError(f"--since {text!r}: expected a date or time as 2026-01-31 or 2026-01-31T06:00") from None


def _with_gates(recipe: Recipe, file: str, overrides: Sequence[str]) -> Recipe:
    """The recipe with the file's gates over its own, and `--set gates.*` over both."""
    try:
        tables = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"no gates file at {file}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: not a readable TOML file: {error}") from None
    if set(tables) != {"gates"} or not isinstance(tables["gates"], dict):
        raise ConfigError(f"{file}: expected one table [gates], found {', '.join(sorted(tables)) or 'nothing'}")
    said = {field: value for section, field, value in map(parse_override, overrides) if section == "gates"}
    values = {**recipe.gates.model_dump(), **tables["gates"], **said}
    return recipe.model_copy(update={"gates": validate_section(GatesSection, values, f"{file}: [gates]")})


if __name__ == "__main__":
    sys.exit(main())
