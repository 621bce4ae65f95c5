"""What histories are found from in an archive."""

import numpy as np
import pytest

from hashtag_core.config import Recipe
from hashtag_core.data.archive_history import TagFinder
from hashtag_core.data.dataset_rows import PostRules
from hashtag_core.data.vocabulary import Vocabulary, read_tag_rules


@pytest.mark.parametrize(
    ("written", "caption"),
    [
        (["Cat", "#dog", "cat"], "x #bird"),
        ([], "a #Kitty and #bird #nothing"),
        (None, None),
        (None, "https://x.y/#cat"),
        (["!"], "#cat"),
    ],
)
def test_tags_are_found_as_prepare_finds_them(written: list[str] | None, caption: str | None) -> None:
    recipe = Recipe.model_validate({"vocabulary": {"synonyms": {"Kitty": "cat"}}})
    rules = read_tag_rules(recipe.vocabulary)
    config = {"synonyms": rules.synonyms}
    vocabulary = Vocabulary(["cat", "dog", "bird"], np.ones(3, np.int64), 3, config)
    expected = vocabulary.encode(PostRules(recipe.captions, rules, recipe.archive).hashtags_of(written, caption))
    assert TagFinder(vocabulary).find(written, caption) == expected
    assert caption != "a #Kitty and #bird #nothing" or expected == [0, 2]
