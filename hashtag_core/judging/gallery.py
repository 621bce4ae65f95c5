"""The posts of the split for the report's gallery: captions and pictures read once, each model's lists beside them."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from hashtag_core.data.images import thumbnail
from hashtag_core.errors import HashtagError
from hashtag_core.evaluation.gallery import MOST_TAGS, Gallery, ShownPost, shown_rows, thumbnail_side_px
from hashtag_core.evaluation.ground_truth import Ranked, Truth
from hashtag_core.evaluation.metrics import Booleans
from hashtag_core.progress_bar import ProgressBar
from hashtag_core.recommend.image_uris import ImagePlaces, fetch_images

logger = logging.getLogger(__name__)


def read_gallery(
    truth: Truth,
    ranked: Sequence[tuple[str, Ranked]],
    slices: dict[str, Booleans],
    k: int,
    most: int,
    places: ImagePlaces,
    looked: Sequence[Mapping[int, str]] = (),
) -> Gallery:
    """At most `most` posts, evenly spaced over the split, as every model (its label, its lists) ranked them.

    `looked`: row -> where on its picture a model looked (`attention.look_at`), in the order of the models. A picture that cannot
    be read leaves its post without one; the report is made all the same.
    """
    rows = shown_rows(len(truth.tags), most)
    wanted = np.zeros(len(truth.tags), bool)
    wanted[list(rows)] = True
    gallery = Gallery(
        models=[name for name, _ in ranked],
        slices=list(slices),
        tags=list(truth.ids),
        known_tags=len(truth.dataset.vocabulary),
        k=min(k, MOST_TAGS),
        posts_in_all=len(truth.tags),
    )
    bits = sum(
        (mask.astype(np.int64) << index for index, mask in enumerate(slices.values())), np.zeros(len(wanted), int)
    )
    side_px = thumbnail_side_px(len(rows))
    start = 0
    with ProgressBar(len(rows), "posts of the report") as progress:
        for table in truth.dataset.read(
            truth.split, ["post_id", "user_id", "caption", "image", "image_uri", "image_key"]
        ):
            inside = np.flatnonzero(wanted[start : start + len(table)])
            chosen = table.take(pa.array(inside)).to_pylist() if len(inside) else []
            uris = [None if post["image"] is not None else post["image_uri"] for post in chosen]
            for index, post, (fetched, _) in zip(inside.tolist(), chosen, fetch_images(uris, places), strict=True):
                row = start + index
                gallery.posts.append(_post(post, row, truth, ranked, int(bits[row])))
                gallery.posts[-1].looks = [found.get(row, "") for found in looked]
                _picture(gallery, post, post["image"] or fetched, side_px)
            start += len(table)
            progress.add(len(inside))
    return gallery


def _post(
    post: dict[str, str | None], row: int, truth: Truth, ranked: Sequence[tuple[str, Ranked]], slices: int
) -> ShownPost:
    lists, scores = [], []
    for _, one in ranked:
        places = np.flatnonzero(one.judged.ranked_NK[row] >= 0)[:MOST_TAGS]
        lists.append(one.judged.ranked_NK[row][places].tolist())
        scores.append(one.scores_NK[row][places].tolist())
    status = ranked[0][1].statuses[row] if ranked else "ok"
    post_id, user, caption = str(post["post_id"]), post["user_id"], post["caption"]
    return ShownPost(post_id, user, caption, status, slices, truth.tags[row], lists, scores)


def _picture(gallery: Gallery, post: dict[str, str | None], data: bytes | None, side_px: int) -> None:
    if data is None:
        return
    key = str(post["image_key"] or post["image_uri"])
    try:
        if key not in gallery.thumbnails:
            gallery.thumbnails[key] = thumbnail(data, side_px)
        gallery.posts[-1].picture = key
    except HashtagError as error:
        logger.debug("post %s is shown without its picture: %s", post["post_id"], error)
