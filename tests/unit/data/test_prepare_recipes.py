"""The papers' cleaning recipes, each on a tiny archive: what it leaves out, what it takes out of captions, which tags it keeps.

Without Ray: the functions that `prepare` runs over parts, on one table.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hashtag_core.config import ArchiveSection, CaptionsSection, Recipe, read_recipe
from hashtag_core.data.captions import clean_caption, has_english_letters
from hashtag_core.data.dataset_rows import PostRules, index_posts
from hashtag_core.data.decide_splits import Partition, partition_posts
from hashtag_core.data.formats import archive_format
from hashtag_core.data.vocabulary import read_tag_rules
from hashtag_core.errors import ConfigError
from hashtag_core.preparation.plan import plan_prepare
from hashtag_core.schema import POST

RECIPES = sorted((Path(__file__).parents[3] / "jobs" / "recipes" / "prepare").glob("*.toml"))


def prepared(name: str, posts: list[dict[str, Any]], **changes: Any) -> tuple[Recipe, Partition]:
    (path,) = [path for path in RECIPES if path.stem == name]
    recipe = read_recipe(path, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])
    rules = PostRules(recipe.captions, read_tag_rules(recipe.vocabulary), recipe.archive)
    table = pa.Table.from_pylist(posts, schema=POST)
    index = index_posts(table, pa.array(range(len(posts))), 0, rules)
    nothing = np.zeros(len(posts), dtype=bool)
    return recipe, partition_posts(
        index, nothing, recipe.split, recipe.vocabulary, recipe.captions.min_words, rules.tags.deny
    )


@pytest.fixture
def make(make_jpeg: Callable[..., bytes]) -> Callable[[int], list[dict[str, Any]]]:
    """Posts that every recipe keeps: picture, a caption of six words, six tags."""

    def posts(count: int) -> list[dict[str, Any]]:
        tags = ["sun", "sea", "sand", "salt", "sail"]
        return [
            {
                "post_id": f"p{n:03d}",
                "user_id": f"u{n % 7}",
                "created_at": 1_600_000_000_000_000 + n * 60_000_000,
                "caption": f"a long walk on beach {chr(97 + n // 26)}{chr(97 + n % 26)}",
                "hashtags": [*tags, f"rare{n // 8}"],
                "image": make_jpeg(n),
            }
            for n in range(count)
        ]

    return posts


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_of_data_alone(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Prepare ")
    assert set(tomllib.loads(text)) == {"archive", "captions", "vocabulary", "split"}
    assert archive_format(read_recipe(path).archive.format).name == tomllib.loads(text)["archive"]["format"]


def test_lxmert4hashtag(make: Callable) -> None:
    posts = make(120)
    posts[0]["caption"] = "only four words here @someone http://x.com/y #one"
    posts[1]["image"] = None
    posts[2] |= {"caption": posts[3]["caption"], "image": posts[3]["image"]}
    for post in posts:
        post["hashtags"] = [*post["hashtags"], "NYC", "brooklyn"]
    few = posts[4]["hashtags"] = ["sun", "sea"]
    recipe, held = prepared("lxmert4hashtag", posts)
    assert held.reasons([0])[0] == "caption_too_short"
    assert held.reasons([1])[0] == "lacks_required"
    assert held.reasons([3])[0] == "near_duplicate"
    assert held.reasons([4])[0] == ("too_few_hashtags" if held.split_of[4] == -1 else "")
    assert set(few) <= set(held.vocabulary.tags)
    assert not {"nyc", "brooklyn"} & set(held.vocabulary.tags)
    assert len(held.vocabulary) <= 500
    assert sum(held.posts.values()) >= 116
    caption = "So #happy @ann on my 2nd run, see http://x.com #sun"
    assert clean_caption(caption, recipe.captions) == "So on my run see"
    article = recipe.captions.model_copy(update={"hashtags": "keep_inline_words"})
    assert clean_caption(caption, article) == "So happy on my run see"


def test_tags_are_counted_before_the_cut_or_after(make: Callable) -> None:
    posts = make(120)
    for n, post in enumerate(posts):
        post["hashtags"] = ["sun", "sea", *(f"only{n}x{k}" for k in "abcd")]
    _, held = prepared("lxmert4hashtag", posts)
    assert held.left_out == {}
    _, literal = prepared("lxmert4hashtag", posts, vocabulary__max_size=2, vocabulary__min_tags_per_post=2)
    assert literal.vocabulary.tags == ["sea", "sun"]
    with pytest.raises(ConfigError, match="train 0"):
        prepared("lxmert4hashtag", posts, vocabulary__max_size=2, vocabulary__min_tags_counted="after_cut")


def test_amnn(make: Callable) -> None:
    posts = make(60)
    posts[0]["image"] = None
    posts[1]["caption"] = "#all #tags"
    posts[2]["caption"] = "and the of it"
    posts[3]["image"] = b"no picture"
    recipe, held = prepared("amnn", posts)
    assert held.reasons(range(4)) == ["lacks_required"] * 4
    assert sum(held.posts.values()) == 56
    assert recipe.vocabulary.max_size == 1000
    assert clean_caption("This is the Best day, don't you THINK? #sun", recipe.captions) == "Best day don't THINK"
    _, pictures = prepared("amnn", posts, archive__require=["image", "hashtags"])
    assert pictures.reasons(range(4)) == ["lacks_required", "", "", "lacks_required"]


def test_design(make: Callable) -> None:
    posts = make(60)
    posts[10] |= {"caption": None, "image": None}
    posts[11]["created_at"] = None
    recipe, held = prepared("design", posts)
    assert recipe.vocabulary.max_size == 1734
    assert held.left_out == {"undated": 1}
    assert held.split_of[10] == 0
    assert (np.diff(held.split_of[np.arange(60) != 11]) >= 0).all()
    assert {"sun", "rare1"} <= set(held.vocabulary.tags)


def test_okboomer(make: Callable) -> None:
    posts = make(200)
    for n, (name, value) in enumerate(
        [("caption", "at the beach 🏖"), ("caption", "am Strand für mich"), ("hashtags", ["sun", "море"]),
         ("caption", None), ("hashtags", []), ("image", None)]
    ):  # fmt: skip
        posts[n][name] = value
    posts[6]["caption"] = "“quoted” – dashes, © signs & 3 numbers … stay"
    _, held = prepared("okboomer", posts)
    assert held.reasons(range(7)) == ["other_letters"] * 3 + ["lacks_required"] * 3 + [""]
    assert 3 <= held.posts["validation"] <= 18
    assert 3 <= held.posts["test"] <= 18


def test_stop_words_go_for_good() -> None:
    section = CaptionsSection(stop_words="remove")
    assert clean_caption("the and of", section) is None
    cleaned = clean_caption("The cat, and a DOG!", section)
    assert cleaned == "cat, DOG!"
    assert clean_caption(cleaned, section) == cleaned


@pytest.mark.parametrize(
    ("text", "english"), [("", True), ("Hi! ™ #1", True), ("naïve", False), ("🇬🇧", False), ("❤", False)]
)
def test_english_letters(text: str, english: bool) -> None:
    assert has_english_letters(text) is english


def test_options_that_came_later_change_no_older_dataset(
    tmp_path: Path, make_posts: Callable, write_archive: Callable[..., Path]
) -> None:
    archive = write_archive(tmp_path / "archive", make_posts(4))
    plain = plan_prepare(Recipe(), str(archive), str(tmp_path / "dataset")).config
    assert not {"require", "letters"} & set(plain["archive"])
    assert "stop_words" not in plain["captions"]
    changed = Recipe(archive=ArchiveSection(letters="english"))
    assert plan_prepare(changed, str(archive), str(tmp_path / "dataset")).config["archive"]["letters"] == "english"
