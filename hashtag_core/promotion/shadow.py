"""A challenger in the champion's shadow: both tag a sample of an archive, and nothing of it is kept but the comparison.

It runs in this process: a sample of some hundred posts needs no cluster. A model that reads histories finds them among
the sample alone.
"""

import io
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import TypedDict

import pyarrow as pa

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.images import decode_image
from hashtag_core.data.parquet_rows import iter_post_batches, list_parts
from hashtag_core.errors import ArchiveError, ConfigError, ImageError, NotFoundError
from hashtag_core.promotion.agreement import (
    ComparedPost,
    agreement,
    agreement_html,
    agreement_markdown,
    most_different,
)
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.schema import POST, TaggedRow
from hashtag_core.tracking.registry import champion, find_version, model_uri, version_run
from hashtag_core.tracking.runs import start_run

logger = logging.getLogger(__name__)

SAMPLED_PARTS = 20
SHOWN_POSTS = 24
THUMBNAIL_PX = 160


class ShadowSummary(TypedDict):
    """What `jobs/promote.py --shadow` prints; `report`: the folder with the page."""

    challenger: str
    champion: str
    figures: dict[str, float]
    parts: int
    run_id: str
    report: str | None


def shadow(
    archive: str,
    challenger: str,
    recipe: Recipe,
    *,
    posts: int = 500,
    since: datetime | None = None,
    report: str | None = None,
) -> ShadowSummary:
    """Tag a sample by challenger and champion; the figures, a run in MLflow, and with `report` a folder with the page.

    `since`: of parts whose file was modified then or later. ConfigError for a challenger that is no version or is the
    champion, NotFoundError where there is no champion or no such part.
    """
    if not challenger.startswith("models:"):
        raise ConfigError(
            f"--challenger {challenger}: only a registered version can be champion: give models:/NAME/VERSION"
        )
    name, version, tags = find_version(challenger)
    holder = champion(name)
    if holder is None:
        raise NotFoundError(f"model {name!r} has no champion to be in the shadow of")
    if holder == version:
        raise ConfigError(f"{model_uri(name, version)} is the champion: nothing to compare it with")
    uris = model_uri(name, version), model_uri(name, holder)
    sample, parts = _sample(archive, posts, since)
    k = recipe.tagging.top_k
    tagged = []
    for uri in uris:
        recommender = Recommender.load(uri)
        logger.info("%s tags %d posts of %d part(s)", uri, len(sample), parts)
        tagged.append(recommender.recommend(sample, top_k=k, archive=archive).to_pylist())
    found = agreement(tagged[0], tagged[1], k)
    markdown = agreement_markdown(uris, found, archive, parts)
    rows = [_shown(sample, tagged, row) for row in most_different(found, SHOWN_POSTS) if found.overlap_N[row] < 1]
    page = agreement_html(markdown, f"{uris[0]} beside {uris[1]}", rows)
    labels = {"kind": "shadow", "model_name": name, "model_version": version, "champion": uris[1], "archive": archive}
    title = f"shadow {name} {version} beside {holder}"
    with start_run(
        recipe.tracking.experiment,
        title,
        tags={**labels, "family": tags.get("family", "")},
        parent=version_run(uris[0]),
    ) as run:
        run.log_metrics(found.figures)
        run.log_text(markdown, "shadow.md")
        run.log_text(page, "shadow.html")
    if report is not None:
        storage.write_bytes(storage.join(report, "shadow.md"), markdown.encode())
        storage.write_bytes(storage.join(report, "shadow.html"), page.encode())
    return {
        "challenger": uris[0],
        "champion": uris[1],
        "figures": found.figures,
        "parts": parts,
        "run_id": run.run_id,
        "report": report,
    }


def _sample(archive: str, count: int, since: datetime | None) -> tuple[pa.Table, int]:
    """Posts from the beginning of parts that lie evenly over the archive, and the number of those parts."""
    parts = [part for part in list_parts(archive) if since is None or part.modified >= since]
    if not parts:
        raise NotFoundError(f"{archive}: no part was modified since {since}")
    step = max(1, -(-len(parts) // SAMPLED_PARTS))
    chosen = parts[::step]
    share = -(-count // len(chosen))
    tables = []
    for part in chosen:
        batch = next(iter(iter_post_batches(part, share)), None)
        if batch is not None and batch.posts.num_rows:
            tables.append(batch.posts)
    if not tables:
        raise ArchiveError(f"{archive}: no post in the {len(chosen)} part(s) that were looked into")
    columns = [name for name in POST.names if all(name in table.column_names for table in tables)]
    return pa.concat_tables([table.select(columns) for table in tables]).slice(0, count), len(chosen)


def _shown(sample: pa.Table, tagged: Sequence[Sequence[TaggedRow]], row: int) -> ComparedPost:
    post = sample.slice(row, 1).to_pylist()[0]
    ours, theirs = ("  ".join(rows[row]["hashtags"]) for rows in tagged)
    return {
        "post_id": post["post_id"],
        "caption": post.get("caption"),
        "png": _thumbnail(post.get("image")),
        "ours": ours,
        "theirs": theirs,
    }


def _thumbnail(image: bytes | None) -> bytes | None:
    if image is None:
        return None
    from matplotlib.image import imsave

    try:
        pixels = decode_image(image, THUMBNAIL_PX)
    except ImageError:
        return None
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return buffer.getvalue()
