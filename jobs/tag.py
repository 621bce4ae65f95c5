"""Champion + archive -> a Delta table of ranked hashtags, whose Parquet files any reader can glob.

    python jobs/tag.py [run] --archive URI --out URI --model MODEL [--model MODEL ...] [--format posts] [--top-k 10] [--chunk-rows N]
    MODEL = models:/NAME/VERSION | models:/NAME@ALIAS | a model folder

With no argument the champion tags the sample archive into ./demo/tagged. Read the result with DuckDB:

    SELECT * FROM read_parquet('demo/tagged/model=*/version=*/**/part-*.parquet')

A second run tags only what is missing: new parts, changed parts, and what a killed run left. SIGTERM, Ctrl-C (once) and
--deadline end the chunks in hand, commit the parts that are whole and end with exit code 1; run again to go on.

Other commands, each with its own --help:

    python jobs/tag.py verify  --out URI [--archive URI]      re-reads an output; exit code 1 if anything is wrong with it
    python jobs/tag.py forget  --out URI --users FILE | --posts FILE   deletes posts (ids, one a line), and proves it
    python jobs/tag.py migrate --out URI [--archive URI]      takes an output from before the table over; tags nothing again

--verify, --forget FILE and --migrate are other spellings of them.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core.config import nearest
from hashtag_core.errors import NotFoundError, UsageError
from jobs.archive_flags import add_archive_flags, recipe_with_archive
from jobs.common import JobParser, add_common_arguments, run
from jobs.tag_commands import COMMANDS
from jobs.tag_models import dry_run, require_distinct, tag_models, tell_run

# What plans and tags is imported where it is called: it brings the table format and pandas, a second that --help need not wait for.
if TYPE_CHECKING:
    from hashtag_core.tracking.registry import ResolvedModel

logger = logging.getLogger("hashtag_core.jobs")

SAMPLE_ARCHIVE = ROOT / "jobs" / "sample"
SAMPLE_OUT = Path("demo") / "tagged"
SPELLINGS = {"--verify": ["verify"], "--migrate": ["migrate"], "--forget": ["forget", "--users"]}
"""Flags that stand for a command; what is behind the command's name takes the flag's place."""


def build_parser() -> JobParser:
    """The flags of `run`."""
    parser = JobParser(prog="tag", description=__doc__, usage="tag.py [run | verify | forget | migrate] [flags]")
    parser.add_argument(
        "--archive", metavar="URI", help="folder of parts, local or s3:// (default: the sample archive)"
    )
    add_archive_flags(parser)
    parser.add_argument("--out", metavar="URI", help="folder to write (default: ./demo/tagged, for the sample only)")
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="what tags (default: the champion); named several times, each gets its partition, in one pass over the archive",
    )
    parser.add_argument("--top-k", metavar="K", help="hashtags a post; the same as --set tagging.top_k=K")
    parser.add_argument("--chunk-rows", metavar="N", help="rows a chunk; the same as --set tagging.chunk_rows=N")
    parser.add_argument(
        "--extra-tags",
        metavar="FILE",
        help="tags, one a line, that the model was not taught and that may be given too, known by their names alone; the same "
        "as --set tagging.extra_tags_file=FILE",
    )
    parser.add_argument(
        "--max-rejected",
        metavar="SHARE",
        help="stop with exit code 1 when more of the rows are rejected; the same as --set tagging.max_rejected=SHARE",
    )
    _add_selection(parser)
    parser.add_argument(
        "--deadline",
        metavar="WHEN",
        help="begin no chunk after it: minutes from now, HH:MM by the local clock, or 2026-01-31T06:00",
    )
    parser.add_argument(
        "--by-day",
        action="store_true",
        help="data files in folders day=2026-01-31 by created_at (UTC; without one: hive's null); the first run into an output decides",
    )
    parser.add_argument(
        "--drop-gone",
        action="store_true",
        help="remove the rows of parts that are no longer in the archive (else they stay, and the run says how many parts)",
    )
    parser.add_argument(
        "--max-gone",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="refuse --drop-gone with exit code 3 where more of the tagged rows would go (default: 0.5)",
    )
    parser.add_argument(
        "--keep-tagged",
        action="store_true",
        help="with another top_k, min_score, deny list, chunk_rows or diversity than before: tag new and changed parts with it, and "
        "let stand what is tagged (else such a run is refused)",
    )
    parser.add_argument(
        "--keep-history",
        type=float,
        default=0.0,
        metavar="HOURS",
        help="keep data files that a commit removed for so long, for time travel; a glob reads them too, a Delta reader does not",
    )
    add_common_arguments(parser)
    return parser


def _add_selection(parser: JobParser) -> None:
    parser.add_argument(
        "--parts",
        nargs="+",
        default=[],
        metavar="GLOB",
        help="do these parts alone, by their path in the archive (quote it; * matches slashes too)",
    )
    parser.add_argument(
        "--since",
        metavar="DATE",
        help="do the parts alone whose file was modified then or later, as 2026-01-31 (created_at of posts is not looked at)",
    )
    parser.add_argument(
        "--retag",
        action="store_true",
        help="tag what is tagged already again, all or what --parts and --since select; all of it may have other settings "
        "than before. --dry-run says what it costs; killed, the same command goes on",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    fault = _fault(given)
    if fault is not None:
        return run(_Refusing(fault), _tag, given)
    command, rest = _command(given)
    if command == "run":
        return run(build_parser(), _tag, rest)
    build, work = COMMANDS[command]
    return run(build(str(SAMPLE_OUT)), work, rest)


def _command(argv: list[str]) -> tuple[str, list[str]]:
    """The command and its own arguments: `run` where none is named."""
    if argv and (argv[0] == "run" or argv[0] in COMMANDS):
        return argv[0], argv[1:]
    for at, item in enumerate(argv):
        flag, _, value = item.partition("=")
        if flag in SPELLINGS:
            name, *before = SPELLINGS[flag]
            spelt = [f"{before[0]}={value}"] if before and value else before
            return name, [*argv[:at], *spelt, *argv[at + 1 :]]
    return "run", argv


def _fault(argv: list[str]) -> str | None:
    """What is wrong with the choice of a command: none of that name, two of them, one that went."""
    commands = ["run", *COMMANDS]
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        return f"unknown command {argv[0]!r}{nearest(argv[0], commands)}; there are {', '.join(commands)}"
    flags = [item.partition("=")[0] for item in argv]
    for flag in ("--compact", "--target-mb"):
        if flag in flags:
            return f"{flag}: there is nothing to merge any more: the table's files are merged as they are committed"
    return "--verify, --forget and --migrate exclude each other" if len(SPELLINGS.keys() & set(flags)) > 1 else None


class _Refusing(JobParser):
    """Says what is wrong with the choice of a command."""

    def __init__(self, fault: str) -> None:
        super().__init__(prog="tag")
        self._fault = fault

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        raise UsageError(f"{self._fault} (see --help)")


def _tag(arguments: argparse.Namespace) -> Mapping[str, object]:
    from hashtag_core.distributed.tag import tag
    from hashtag_core.tagging.plan import plan_jointly
    from hashtag_core.tagging.planned_work import TagRequest
    from hashtag_core.tagging.select_parts import Selection, parse_since
    from hashtag_core.tagging.stop_signal import parse_deadline

    for key in ("top_k", "chunk_rows", "max_rejected"):
        if getattr(arguments, key) is not None:
            arguments.overrides.append(f"tagging.{key}={getattr(arguments, key)}")
    if arguments.extra_tags is not None:
        arguments.overrides.append(f"tagging.extra_tags_file={json.dumps(arguments.extra_tags, ensure_ascii=False)}")
    if not 0 <= arguments.max_gone <= 1:
        build_parser().error(f"--max-gone {arguments.max_gone:g}: expected a share from 0 to 1")
    if not 0 <= arguments.keep_history < float("inf"):
        build_parser().error(f"--keep-history {arguments.keep_history:g}: expected hours, 0 or more")
    recipe = recipe_with_archive(arguments)
    deadline = None if arguments.deadline is None else parse_deadline(arguments.deadline, datetime.now(UTC))
    archive, out = _places(arguments)
    models = _models(arguments.model or [], recipe.tracking.model_name)
    since = None if arguments.since is None else parse_since(arguments.since)
    requests = [
        TagRequest(
            recipe,
            archive,
            out,
            model,
            Selection(arguments.parts, since, arguments.retag),
            by_day=arguments.by_day,
            drop_gone=arguments.drop_gone,
            max_gone=arguments.max_gone,
            keep_tagged=arguments.keep_tagged,
            keep_history_h=arguments.keep_history,
        )
        for model in models
    ]
    plans = plan_jointly(requests)
    for plan in plans:
        logger.info(
            "%s %s tags %s into %s", plan.layout.model_name, plan.layout.model_version, archive, plan.layout.tagged
        )
    if arguments.dry_run:
        return dry_run(plans)
    for plan in plans:
        if plan.is_done:
            of = f" for {plan.layout.model_name} {plan.layout.model_version}" if len(plans) > 1 else ""
            done = (of, plan.skipped, len(plan.unselected))
            logger.info("nothing to do%s: %d part(s) are tagged already, %d not selected", *done)
    if len(plans) > 1:
        return tag_models(plans, deadline)
    summary = tag(plans[0], deadline)
    tell_run(plans[0], summary)
    return {**asdict(summary), "files": plans[0].source.archive.tally.to_json()}


def _places(arguments: argparse.Namespace) -> tuple[str, str]:
    if arguments.archive is None and arguments.out is None:
        logger.info("no --archive and no --out: the sample archive %s into %s", SAMPLE_ARCHIVE, SAMPLE_OUT)
    if arguments.out is None and arguments.archive is not None:
        build_parser().error("--archive needs --out, the folder to write")
    return arguments.archive or str(SAMPLE_ARCHIVE), arguments.out or str(SAMPLE_OUT)


def _models(named: Sequence[str], name: str) -> list["ResolvedModel"]:
    """The models that were named, else the champion. UsageError for one that was named twice."""
    from hashtag_core.tracking.registry import resolve_model

    if named:
        models = [resolve_model(model) for model in named]
        require_distinct(named, models)
        return models
    try:
        return [resolve_model(f"models:/{name}@champion")]
    except NotFoundError as error:
        raise NotFoundError(
            f"{error}; no --model was given and there is no champion yet: run jobs/prepare.py, jobs/train.py and "
            "jobs/promote.py first (make demo runs them all), or name a --model"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
