"""Hashtags for a picture, a caption, a folder of pictures or a table, now: no Ray, no archive, seconds.

    python jobs/recommend.py photo.jpg --caption "harbour at dawn"
    python jobs/recommend.py --caption "harbour at dawn" --top-k 5
    python jobs/recommend.py holiday/ --format json
    python jobs/recommend.py posts.csv --out tagged.csv

MODEL is models:/NAME/VERSION, models:/NAME@ALIAS or a model folder; without --model the champion answers. A table (CSV, TSV;
with a header) has captions in a column `caption` or `text`, paths of pictures, below the table's own folder, in `image` or
`file`; its other columns are kept. What is answered goes to stdout (--out: to a file), as text, as one JSON object or as CSV.
"""

import argparse
import atexit
import itertools
import json
import logging
import multiprocessing
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.errors import ConfigError, HashtagError, NotFoundError, UsageError
from jobs.archive_flags import add_reading_flags, recipe_with_archive
from jobs.common import JobParser, add_common_arguments, run

if TYPE_CHECKING:
    from hashtag_core.recommend.answers import Answer
    from hashtag_core.recommend.inputs import Asked, Source
    from hashtag_core.recommend.recommender import Recommender
    from hashtag_core.tracking.registry import ResolvedModel

logger = logging.getLogger("hashtag_core.jobs")

BATCH_POSTS = 64
"""Posts that are in memory at once."""

FORMATS = {".json": "json", ".csv": "csv", ".tsv": "tsv"}
OTHER_FILES = frozenset(
    {".parquet", ".parq", ".pq", ".xlsx", ".xls", ".feather", ".arrow", ".jsonl", ".html", ".gz", ".zip"}
)
COLUMNS = {"caption": "caption_column", "image": "image_column", "user_id": "user_column", "post_id": "id_column"}


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="recommend", description=__doc__)
    parser.add_argument("places", metavar="FILE", nargs="*", help="a picture, a folder of pictures, or a CSV file")
    parser.add_argument("--caption", metavar="TEXT", help="the caption of the one picture, or of a post without one")
    parser.add_argument("--user", metavar="ID", help="who posts it, for a model that knows its users")
    parser.add_argument("--model", metavar="MODEL", help="what answers (default: the champion)")
    parser.add_argument("--top-k", metavar="K", help="hashtags a post; the same as --set tagging.top_k=K")
    parser.add_argument("--explain", action="store_true", help="say of each tag why, where the model can")
    parser.add_argument(
        "--format",
        dest="shape",
        choices=("text", "json", "csv"),
        help="of the answer (default: by the ending of --out, else text)",
    )
    parser.add_argument("--out", metavar="FILE", help="write the answer there, in place of stdout")
    for field, name in COLUMNS.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, metavar="NAME", help=f"column of a table that holds the {field.replace('_', ' ')}")
    add_reading_flags(parser)
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _recommend, argv)


def _recommend(arguments: argparse.Namespace) -> Mapping[str, object] | str:
    if arguments.top_k is not None:
        arguments.overrides.append(f"tagging.top_k={arguments.top_k}")
    shape = arguments.shape or _shape_of(arguments.out)
    recipe = recipe_with_archive(arguments)
    from hashtag_core.data.reading_options import Reading
    from hashtag_core.recommend.inputs import sources

    columns = {field: getattr(arguments, name) for field, name in COLUMNS.items()}
    asked = sources(arguments.places, arguments.caption, arguments.user, columns, Reading.of(recipe.archive))
    model = arguments.model or f"models:/{recipe.tracking.model_name}@champion"
    if arguments.dry_run:
        resolved = resolve(model, chosen=arguments.model is not None)
        kinds = ", ".join(f"{source.kind} {source.path or ''}".strip() for source in asked)
        logger.info("%s %s would tag: %s", resolved.name, resolved.version, kinds)
        return {"dry_run": True, "model": resolved.uri, "asked": kinds}
    recommender, uri = load_recommender(model, recipe, chosen=arguments.model is not None)
    for source in asked:
        if source.table is not None:
            logger.info("%s: %s", source.path, source.table.told)
    answers = list(_answers(recommender, asked, recipe, explain=arguments.explain))
    text = _shaped(answers, shape, uri, recommender.loaded.family)
    if arguments.out is None:
        return text
    storage.write_bytes(arguments.out, text.encode("utf-8", "replace"))
    read = [answer for answer in answers if answer.hashtags]
    statuses = ", ".join(
        f"{status} {count}" for status, count in Counter(each.status for each in answers).most_common()
    )
    logger.info("%d posts, %d with hashtags (%s): %s", len(answers), len(read), statuses, arguments.out)
    return {"model": uri, "posts": len(answers), "tagged": len(read), "out": arguments.out}


def _shape_of(out: str | None) -> str:
    """Text, JSON or a table, by the ending of the file; UsageError for an ending that says something else."""
    ending = Path(out or "").suffix.lower()
    if ending in OTHER_FILES:
        raise UsageError(
            f"--out {out}: expected a name in {', '.join(FORMATS)} or .txt (jobs/tag.py writes a whole archive's tags as Parquet)"
        )
    return FORMATS.get(ending, "text")


def _shaped(answers: "Sequence[Answer]", shape: str, model: str, family: str) -> str:
    from hashtag_core.recommend.answers import WIDTH, as_csv, as_json, as_text

    if shape == "json":
        return as_json(answers, model, family)
    if shape in ("csv", "tsv"):
        return as_csv(answers, "\t" if shape == "tsv" else ",")
    columns = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stderr.isatty() else WIDTH
    return as_text(answers, columns)


def _answers(
    recommender: "Recommender", asked: "Sequence[Source]", recipe: Recipe, *, explain: bool
) -> "Iterator[Answer]":
    from hashtag_core.recommend.inputs import history_rows

    if explain and "explain" not in signature(recommender.recommend).parameters:
        raise ConfigError(f"--explain: a model of the family {recommender.loaded.family} cannot say why")
    most = recipe.archive.max_image_bytes
    for source in asked:
        reads: dict[str, Any] = {"archive": source.folder, **({"explain": True} if explain else {})}
        if recommender.loaded.history is not None:
            reads["history"] = history_rows(source)
        posts = source.posts(most)
        while some := list(itertools.islice(posts, BATCH_POSTS)):
            yield from _answered(recommender, some, recipe.tagging.top_k, reads)


def _answered(
    recommender: "Recommender", some: "Sequence[Asked]", top_k: int, reads: dict[str, Any]
) -> "Iterator[Answer]":
    """Answers of some posts, in their order; a model that cannot explain is a UsageError."""
    from hashtag_core.recommend.answers import FAULT, Answer

    known = [index for index, asked in enumerate(some) if asked.post is not None]
    posts = [some[index].post or {} for index in known]
    rows = dict(zip(known, recommender.recommend(posts, top_k, **reads).to_pylist(), strict=True)) if posts else {}
    for index, asked in enumerate(some):
        row = rows.get(index)
        if row is None:
            yield Answer(asked.name, asked.given, status=FAULT, detail=asked.fault)
            continue
        yield Answer(
            asked.name,
            asked.given,
            row["hashtags"],
            row["scores"],
            row["status"],
            row["detail"],
            row.get("explanation"),
        )


def load_recommender(model: str, recipe: Recipe, *, chosen: bool) -> "tuple[Recommender, str]":
    """The recommender, and the model's URI with its alias resolved.

    Looking a model up takes MLflow, and ranking takes torch; each is a second of imports, so on two cores the first is done in a
    process of its own meanwhile.
    """
    with _lookup(model) as resolved_later:
        from hashtag_core.data.vocabulary import read_tags
        from hashtag_core.recommend.image_uris import ImagePlaces
        from hashtag_core.recommend.policy import Policy, read_thresholds
        from hashtag_core.recommend.recommender import Recommender

        resolved = resolved_later(chosen)
    section = recipe.tagging
    deny = read_tags(section.deny, section.deny_file, "tagging.deny")
    policy = Policy(section.min_score, deny, read_thresholds(resolved.folder))  # as a tagging run has it
    recommender = Recommender.load(
        str(resolved.folder),
        name=resolved.name,
        version=resolved.version,
        places=ImagePlaces.of(None, recipe),
        policy=policy,
        **_at_once(resolved.folder),
    )
    extra = read_tags(section.extra_tags, section.extra_tags_file, "tagging.extra_tags")
    if extra:
        recommender.add_tags(sorted(extra))
    return recommender, resolved.uri


def _at_once(folder: Path) -> dict[str, Any]:
    """How the encoders run for a few posts: from their ONNX graphs in float32, wherever the recipe leaves it open.

    Nothing is measured then, and neither transformers nor the networks' weights are loaded: seconds, where the posts themselves
    take tenths of one. (A tagging run takes what is fastest for thousands, which may be bfloat16.)
    """
    import torch

    from hashtag_core.encoders.onnx import can_export

    try:
        section = json.loads((folder / "model.json").read_bytes())["recipe"]["encoders"]
    except (OSError, ValueError, KeyError, TypeError):  # loading the model says what is wrong with it
        return {}
    default = section.get("text") == "minilm" and section.get("image") == "efficientnet_lite0"
    left_open = section.get("backend", "auto") == "auto" and section.get("precision", "auto") != "bfloat16"
    return {"backend": "onnx"} if default and left_open and can_export() and not torch.cuda.is_available() else {}


@contextmanager
def _lookup(model: str) -> "Iterator[Callable[[bool], ResolvedModel]]":
    """Begins to look the model up, and gives what waits for it."""
    if (
        not model.startswith("models:") or threading.active_count() > 1
    ):  # a fork is safe in a process of one thread alone
        yield lambda chosen: resolve(model, chosen=chosen)
        return
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    folder = tempfile.mkdtemp(prefix="hashtag-model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    child = context.Process(target=_send_resolved, args=(sender, model, folder), daemon=True)
    child.start()
    sender.close()

    def wait(chosen: bool) -> "ResolvedModel":
        try:
            found = receiver.recv()
        except EOFError:  # the child died: here we see why
            return resolve(model, chosen=chosen)
        if isinstance(found, HashtagError):
            raise _explained(found, chosen=chosen)
        return found  # type: ignore[no-any-return]

    try:
        yield wait
    finally:
        receiver.close()
        child.join()


def _send_resolved(sender: Any, model: str, folder: str) -> None:
    """`folder`: where a model that is not on this disk is downloaded to; one that is stays where it is."""
    tempfile.tempdir = folder
    from hashtag_core.tracking.registry import resolve_model

    try:
        sender.send(resolve_model(model))
    except HashtagError as error:
        sender.send(type(error)(str(error)))


def resolve(model: str, *, chosen: bool) -> "ResolvedModel":
    """The model that MODEL names; where none was `chosen` and there is no champion, NotFoundError says how to get one."""
    from hashtag_core.tracking.registry import resolve_model

    try:
        return resolve_model(model)
    except NotFoundError as error:
        raise _explained(error, chosen=chosen) from None


def _explained(error: HashtagError, *, chosen: bool) -> HashtagError:
    """Where no model was named and there is no champion, how to get one."""
    if chosen or not isinstance(error, NotFoundError):
        return error
    return NotFoundError(
        f"no champion to ask: {error}. Make one (`python jobs/train.py`, then `python jobs/promote.py --dataset demo/dataset "
        "--challenger models:/NAME/VERSION`; `python jobs/demo.py` does both on the sample), or name a model: --model MODEL"
    )


if __name__ == "__main__":
    sys.exit(main())
