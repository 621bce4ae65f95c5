"""The console command `hashtags`: every job under one name, imported when it is asked for.

hashtags recommend photo.jpg --caption "harbour at dawn"
hashtags train --recipe recipe.toml --dataset dataset
hashtags COMMAND --help
hashtags --version
"""

import importlib
import platform
import sys
from collections.abc import Sequence

from hashtag_core.config import nearest

COMMANDS = {
    "recommend": "hashtags for a picture, a caption, a folder, a table, now",
    "playground": "the same as a page in the browser, several models side by side",
    "prepare": "an archive becomes a dataset: posts, vocabulary, splits",
    "train": "a dataset and a recipe become a model version",
    "tune": "settings of one recipe tried out, the best kept",
    "evaluate": "models on posts that none has seen: leaderboard and report",
    "promote": "a challenger becomes champion, if the gates allow it; --rollback",
    "tag": "a whole archive is tagged with Ray, every post once",
    "nightly": "a night in one: tag what is new, train anew, let the gates decide",
    "leaderboard": "every family on one archive, side by side",
    "demo": "the whole path on the sample archive, in some minutes",
}
"""Name of a module in `jobs` -> what it does, in the order of the help."""

DONE, USAGE = 0, 2
VERSIONS = ("ray", "torch", "mlflow", "deltalake")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names with the others; its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if given else sys.stderr)
        return DONE if given else USAGE
    if given[0] in ("-V", "--version"):
        print(version())
        return DONE
    if given[0] not in COMMANDS:
        print(f"hashtags: no command {given[0]!r}{nearest(given[0], COMMANDS)} (see hashtags --help)", file=sys.stderr)
        return USAGE
    return int(importlib.import_module(f"jobs.{given[0]}").main(given[1:]))


def version() -> str:
    """What a report of a fault begins with: our version, Python's, and those of what decides most."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    def told(name: str) -> str:
        try:
            return of(name)
        except PackageNotFoundError:
            return "not installed"

    ours = told("hashtag-recommender")
    rest = ", ".join(f"{name} {told(name)}" for name in VERSIONS)
    return f"hashtags {ours if ours != 'not installed' else 'of a clone'} (Python {platform.python_version()}, {rest})"


def usage() -> str:
    """The help: a line a command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {description}" for name, description in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hashtags COMMAND [ARGUMENTS]",
            "",
            *lines,
            "",
            "hashtags COMMAND --help tells the rest, hashtags --version what is installed.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
