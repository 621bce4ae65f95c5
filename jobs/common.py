"""What every entry point shares: flags, exit codes, the JSON summary as the last line of stdout."""

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from hashtag_core.config import Recipe, nearest, read_recipe
from hashtag_core.errors import HashtagError, NotFoundError, UsageError

logger = logging.getLogger("hashtag_core.jobs")

DONE, FAILED, USAGE = 0, 1, 2

RECIPES = Path(__file__).resolve().parent / "recipes"


class JobParser(argparse.ArgumentParser):
    """An argument parser whose every fault is one line and exit code 2, with the nearest flag offered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unknown argument {unknown[0]!r}{_meant(unknown[0].partition('=')[0], known)}")
        return parsed

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see --help)")


MEANT = {
    "lr": "learning_rate",
    "rate": "learning_rate",
    "epoch": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "batch": "batch_size",
    "num_workers": "workers",
    "gpu": "gpus",
    "n_gpus": "gpus",
    "family": "model.family",
    "patience": "early_stopping_epochs",
    "name": "model_name",
    "topk": "top_k",
    "k": "top_k",
    "threshold": "min_score",
    "blocklist": "deny",
    "experiment_name": "experiment",
}
"""Other words for a recipe key."""

OTHER_FLAGS = {
    "--output": ("--out", "--report", "--dataset"),
    "--output-dir": ("--out", "--report", "--dataset"),
    "--input": ("--archive", "--dataset"),
    "--data": ("--dataset", "--archive"),
    "--config": ("--recipe",),
    "--checkpoint": ("--resume",),
    "--continue": ("--resume",),
    "--debug": ("--verbose",),
    "--silent": ("--quiet",),
    "--models": ("--model",),
}
"""Other words for a flag; the first that the job has is meant."""

SECTIONS_FIRST = ("training", "tagging", "evaluation")


def _meant(flag: str, known: Sequence[str]) -> str:
    """What an unknown flag is likely to mean: a flag by another word, a key of the recipe, else the nearest spelling."""
    word = flag.lstrip("-").replace("-", "_").lower()
    other = next((item for item in OTHER_FLAGS.get(flag, ()) if item in known), None)
    if other:
        return f" (did you mean {other!r}?)"
    key = MEANT.get(word, word)
    if key == "model.family":
        return f" (did you mean --set {key}=...?)"
    sections = [*SECTIONS_FIRST, *(name for name in Recipe.model_fields if name not in SECTIONS_FIRST)]
    for name in sections:
        fields = getattr(Recipe.model_fields[name].annotation, "model_fields", {})
        if key in fields and flag not in known:
            return f" (did you mean --set {name}.{key}=...?)"
    return nearest(flag, known)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """`--recipe`, `--set`, `--dry-run`, `--verbose`, `--quiet`, `--log-format`: alike for every job."""
    parser.add_argument(
        "--recipe", metavar="FILE", help="TOML recipe, or the name of one in jobs/recipes; without one, the defaults"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="override a recipe key",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="validate everything, touch nothing, say what would be done"
    )
    parser.add_argument("--verbose", action="store_true", help="debug messages and stack traces on stderr")
    parser.add_argument(
        "--quiet", action="store_true", help="no progress on stderr: warnings, errors and the result alone"
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json: each message on stderr is a JSON line with time, level, logger and message (Ray's own stay text)",
    )


def recipe_of(arguments: argparse.Namespace, default: str | None = None) -> Recipe:
    """The recipe that the flags describe; `default` is the file taken where none is named. A bare name (`linear`, `amnn_small`) is
    that of a recipe that comes with the jobs."""
    return read_recipe(recipe_file(arguments.recipe) or default, arguments.overrides)


def recipe_file(named: str | None) -> str | None:
    """The file that `--recipe` names; NotFoundError for a bare name that is neither a file nor one of ours."""
    if named is None or Path(named).suffix or "/" in named or Path(named).exists():
        return named
    ours = {path.stem: path for path in RECIPES.glob("*.toml")}
    if named not in ours:
        raise NotFoundError(
            f"no recipe {named!r}{nearest(named, ours)}: name a TOML file, or one of {', '.join(sorted(ours))}"
        )
    return str(ours[named])


def run(
    parser: JobParser, main: Callable[[argparse.Namespace], Mapping[str, Any] | str], argv: Sequence[str] | None = None
) -> int:
    """Parse, run `main`, print its summary as one JSON line on stdout (a text as it is), return the exit code.

    Everything else that any library or child process prints to file descriptor 1 goes to stderr: Ray's messages would
    otherwise land behind the summary. A `GateRefused` with a `summary` still prints it.
    """
    given = sys.argv if argv is None else argv
    verbose = "--verbose" in given
    json_lines = "--log-format=json" in given or ("--log-format", "json") in pairwise(given)
    _log_to_stderr(logging.DEBUG if verbose else logging.WARNING if "--quiet" in given else logging.INFO, json_lines)
    code, arguments = _attempt(
        parser.prog, verbose, json_lines, lambda: parser.parse_args(argv)
    )  # before the redirection: --help
    if arguments is None:
        return code
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        code, summary = _attempt(parser.prog, verbose, json_lines, lambda: main(arguments))
        sys.stdout.flush()
        if summary is not None:
            line = (
                summary if isinstance(summary, str) else json.dumps(summary, ensure_ascii=False, allow_nan=False) + "\n"
            )
            with open(os.dup(saved), "wb") as out:
                out.write(line.encode("utf-8", "replace"))
        return code
    finally:
        os.dup2(saved, 1)
        os.close(saved)


class JsonLines(logging.Formatter):
    """A JSON object a line, for who collects logs: `time` in UTC, `level`, `logger`, `message`, `exception` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def _log_to_stderr(level: int, json_lines: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json_lines else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("hashtag_core").setLevel(level)
    for noisy in (
        "botocore",
        "s3fs",
        "aiobotocore",
        "httpx",
        "alembic",
        "mlflow.store.db.utils",
        "matplotlib",
        "mlflow",
        "PIL",
        "faiss",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _attempt(prog: str, verbose: bool, json_lines: bool, work: Callable[[], Any]) -> tuple[int, Any]:
    def tell(message: str, *, trace: bool = False) -> None:
        if json_lines:
            logger.error("%s: %s", prog, message, exc_info=trace)
            return
        if trace:
            traceback.print_exc()
        print(f"{prog}: {message}", file=sys.stderr)

    try:
        return DONE, work()
    except HashtagError as error:
        tell(str(error), trace=verbose)
        return error.exit_code, getattr(error, "summary", None)
    except KeyboardInterrupt as interrupt:
        tell(f"interrupted: {interrupt}" if str(interrupt) else "interrupted")
        return FAILED, None
    except Exception as error:  # noqa: BLE001  the one place that turns a bug into an exit code, with its whole trace
        tell(f"{type(error).__name__}: {error}", trace=True)
        return FAILED, None
