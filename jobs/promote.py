"""Challenger against champion -> gates -> the alias `champion` moves, or exit code 3.

    python jobs/promote.py --dataset URI --challenger MODEL [--gates FILE]
    python jobs/promote.py --rollback

MODEL is a registered version, models:/NAME/VERSION or models:/NAME@ALIAS. FILE is a TOML file with a [gates] table,
which goes over the recipe's; --set goes over both. --rollback gives the alias back to the champion before this one.
"""

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core.config import GatesSection, Recipe, parse_override, validate_section
from hashtag_core.errors import ConfigError, NotFoundError
from jobs.common import JobParser, add_common_arguments, recipe_of, run


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="promote", description=__doc__)
    parser.add_argument("--dataset", metavar="URI", help="what jobs/prepare.py wrote; both models are judged on it")
    parser.add_argument("--challenger", metavar="MODEL", help="the version that is to become champion")
    parser.add_argument("--gates", metavar="FILE", help="TOML file with a [gates] table")
    parser.add_argument("--rollback", action="store_true", help="return to the champion before this one")
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _promote, argv)


def _promote(arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = recipe_of(arguments)
    from hashtag_core.distributed.promote import describe_promotion, plan_promote, promote, roll_back  # torch, Ray

    if arguments.rollback:
        if arguments.challenger or arguments.dataset or arguments.gates:
            build_parser().error("--rollback judges nothing: leave --challenger, --dataset and --gates out")
        return roll_back(recipe.tracking.model_name, dry_run=arguments.dry_run)
    if not (arguments.challenger and arguments.dataset):
        build_parser().error("give --dataset and --challenger, or --rollback")
    if arguments.gates:
        recipe = _with_gates(recipe, arguments.gates, arguments.overrides)
    plan = plan_promote(arguments.dataset, arguments.challenger, recipe)
    return describe_promotion(plan) if arguments.dry_run else promote(plan)


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
