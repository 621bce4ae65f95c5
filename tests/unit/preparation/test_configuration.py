"""What a dataset records of its recipe: a key that came later is not recorded at its default, so that a dataset stays what it is."""

from hashtag_core.config import Recipe
from hashtag_core.preparation.plan import _configuration, _flat

RECORDED = {
    "archive": {"format", "max_image_bytes", "test_archive"},
    "captions": {"hashtags", "mentions", "min_words", "non_alphabetic", "urls"},
    "split": {"kind", "near_duplicate_bits", "seed", "test", "validation"},
    "vocabulary": {
        *("deny", "deny_file", "max_size", "min_count", "min_tags_counted", "min_tags_per_post"),
        *("synonyms", "synonyms_file"),
    },
}


def test_the_defaults_are_recorded_as_they_always_were() -> None:
    """Else every dataset that there is would be refused as one of another configuration: a new key belongs into LATER_OPTIONS."""
    recorded = {f"{section}.{key}" for section, keys in RECORDED.items() for key in keys}
    assert _flat(_configuration(Recipe(), with_test_archive=False)).keys() == recorded
    chosen = Recipe.model_validate({"split": {"test": 0.2, "fold": 2}})
    assert _flat(_configuration(chosen, with_test_archive=False)).keys() - recorded == {"split.fold"}
