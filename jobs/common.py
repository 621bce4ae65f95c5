"""What every entry point shares: flags, exit codes, the JSON summary as the last line of stdout."""

import argparse
import atexit
import gc
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from hashtag_core.config import Recipe, nearest, read_recipe
from hashtag_core.errors import HashtagError, NotFoundError, UsageError
from hashtag_core.redaction import one_line, redact

logger = logging.getLogger("hashtag_core.jobs")

DONE, FAILED, USAGE = 0, 1, 2

RECIPES = Path(__file__).resolve().parent / "recipes"


class JobParser(argparse.ArgumentParser):
    """An argument parser whose every fault is one line and exit code 2, with the nearest flag offered."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        parsed: argparse.Namespace
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            word = unknown[0]
            meant = _meant(word.partition("=")[0], known)
            if not meant and not word.startswith("-"):
                meant = ": a value with a blank in it stands in quotes, as in --map 'caption=Post text'"
            self.error(f"unknown argument {word!r}{meant}")
        return parsed

    def format_help(self) -> str:
        """The help, with every job named as it was called."""
        told = super().format_help()
        if _by_console_command():
            told = told.replace(f"usage: {self.prog}", f"usage: hashtags {self.prog}", 1)
            told = told.replace(f"usage: hashtags {self.prog}.py", f"usage: hashtags {self.prog}", 1)
        return as_called(told)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see --help)")


_JOB = re.compile(r"(?<![\w./-])(?:[\w./-]*python )?jobs/(\w+)\.py\b")
"""A job as it is called in a clone; a person's own file `/data/jobs/x.py` is none."""


def as_called(text: str) -> str:
    """What is told to a person, with every job named as this one was called: `hashtags train` of the installed package, where
    no file `jobs/train.py` is in sight."""
    if not _by_console_command():
        return text
    return _JOB.sub(r"hashtags \1", text).replace("make demo", "hashtags demo")


def _by_console_command() -> bool:
    return Path(sys.argv[0]).stem in ("hashtags", "cli")


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
    parser: JobParser,
    main: Callable[[argparse.Namespace], Mapping[str, object] | str],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, run `main`, print its summary as one JSON line on stdout (a text as it is), return the exit code.

    Everything else that any library or child process prints to file descriptor 1 goes to stderr: Ray's messages would
    otherwise land behind the summary. A `GateRefused` with a `summary` still prints it.
    """
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
        message = f"{parser.prog}: this Python takes names of files for {sys.getfilesystemencoding()}: set PYTHONUTF8=1"
        print(f"{message} (or LC_ALL=C.UTF-8)", file=sys.stderr)
        return USAGE
    _open_closed_streams()
    _end_without_search()
    _keep_proxies_off_this_machine()
    given = sys.argv if argv is None else argv
    verbose = "--verbose" in given
    json_lines = "--log-format=json" in given or ("--log-format", "json") in pairwise(given)
    _log_to_stderr(logging.DEBUG if verbose else logging.WARNING if "--quiet" in given else logging.INFO, json_lines)
    code, arguments = _attempt(
        parser.prog, verbose, json_lines, lambda: _parsed(parser, argv)
    )  # before the redirection: --help
    if arguments is None:
        return code
    saved = _saved_stdout()
    try:
        code, summary = _attempt(parser.prog, verbose, json_lines, lambda: main(arguments))
        sys.stdout.flush()
        if summary is not None:
            line = (
                summary if isinstance(summary, str) else json.dumps(summary, ensure_ascii=False, allow_nan=False) + "\n"
            )
            _write_summary(parser.prog, saved, line)
        return code
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _open_closed_streams() -> None:
    """Where a job is started without stdout or stderr (`>&-`), they lead nowhere: else the next file that is opened would get
    their descriptor, and all that is printed would land in it."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def _end_without_search() -> None:
    """Python looks for reference cycles once more as it ends: among the objects of Ray, torch and MLflow that takes more than a second,
    of every job, and frees what the system takes back anyway."""
    atexit.unregister(gc.freeze)  # once, however many jobs a process runs
    atexit.register(gc.freeze)


def _keep_proxies_off_this_machine() -> None:
    """Where a proxy is set, what listens on this machine (a local store, MLflow) is asked directly: no proxy leads there."""
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in proxies):
        return
    named = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")).split(",")
    excepted = [host.strip() for host in named if host.strip()]
    if "*" not in excepted:
        exceptions = ",".join(dict.fromkeys([*excepted, "localhost", "127.0.0.1", "::1"]))
        os.environ |= {"NO_PROXY": exceptions, "no_proxy": exceptions}  # libraries read one or the other


def _parsed(parser: JobParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. `--help` into a pipe that nobody reads any more (`| head -1`) ends quietly, as other programs do."""
    try:
        return parser.parse_args(argv)
    except SystemExit:
        with suppress(BrokenPipeError):
            sys.stdout.flush()
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer, else told at the end of the process
        raise


def _saved_stdout() -> int:
    """A copy of descriptor 1 for the summary; 1 itself leads to stderr from now on."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    return saved


def _write_summary(prog: str, descriptor: int, line: str) -> None:
    """All of it; where nobody reads stdout any more, the work is done all the same and stderr has the summary."""
    data = line.encode("utf-8", "replace")
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        print(f"{prog}: stdout cannot be written ({error.strerror}); the summary: {line}", end="", file=sys.stderr)


class JsonLines(logging.Formatter):
    """A JSON object a line, for who collects logs: `time` in UTC, `level`, `logger`, `message`, `exception` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(as_called(record.getMessage())),
        }
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class TextLines(logging.Formatter):
    """A line a message, whatever is in it, and the trace below it if there is one; no secret in either."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """Time, level and message."""
        return one_line(redact(as_called(super().formatMessage(record))))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """The trace."""
        return redact(super().formatException(ei))


def _log_to_stderr(level: int, json_lines: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json_lines else TextLines("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("hashtag_core").setLevel(level)
    for noisy in (
        "botocore",
        "s3fs",
        "aiobotocore",
        "httpx",
        "alembic",
        "mlflow.store.db.utils",
        "mlflow",
        "PIL",
        "faiss",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of a home that it cannot write to it tells in two lines


def _attempt(prog: str, verbose: bool, json_lines: bool, work: Callable[[], Any]) -> tuple[int, Any]:
    def tell(message: str, *, trace: bool = False) -> None:
        message = as_called(message)
        if json_lines:
            logger.error("%s: %s", prog, message, exc_info=trace)
            return
        if trace:
            print(redact(traceback.format_exc()), end="", file=sys.stderr)
        print(one_line(redact(f"{prog}: {message}")), file=sys.stderr)

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
