"""The posts of a report, with where each model looked."""

from pathlib import Path

from hashtag_core.config import read_recipe
from hashtag_core.evaluation.ground_truth import Truth
from hashtag_core.judging.attention import looks
from hashtag_core.judging.page import gallery_of
from tests.unit.judging.small_truth import POSTS, ranked


def test_the_gallery_holds_where_each_model_looked(truth: Truth, looking: Path) -> None:
    lists = ranked(truth, [[0, n] for n in range(POSTS)])
    gallery = gallery_of(
        [("blind", lists, {}), ("looking", lists, looks(looking, truth, range(POSTS)))], truth, read_recipe(None)
    )
    rows = gallery.data()["posts"]
    assert [post.get("a", ["", ""])[0] for post in rows] == [""] * POSTS
    assert [len(post["a"][1]) if "a" in post else 0 for post in rows] == [36, 36, 0, 36, 36, 0]
