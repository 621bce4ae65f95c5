"""Tags cut into words, by hand, with a small tokenizer and with the packaged one."""

import json
from pathlib import Path

import pytest

from hashtag_core.config import EncodersSection
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders.tag_words import TagWords


def tokenizer_file(folder: Path, vocabulary: object) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return path


def test_the_likeliest_words_by_hand(tmp_path: Path) -> None:
    """`the` and `rapist` are rarer together than `therapist`; pieces of words and short chance are no words."""
    words = ["[PAD]", "the", "and", "in", "cat", "sand", "dog", "therapist", "rapist", "##s", "ca", "ts", "catsand"]
    cut = TagWords(tokenizer_file(tmp_path, {word: place for place, word in enumerate(words)}))
    assert cut.split("therapist") == "therapist"
    assert cut.split("catanddog") == "cat and dog"
    assert cut.split("doginsand") == "dog in sand"
    assert cut.split("cats") == "cats"  # `ca` and `ts` are chance
    assert cut.split("catsanddog") == "catsand dog" or cut.split("catsanddog") == "cat sand dog"
    assert cut.split("dog2020") == "dog2020"
    assert cut.split("") == ""


def test_words_of_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    """There a word begins with a mark; what has none stands within words."""
    pieces = [["<s>", 0.0], ["\u2581ice", -1.0], ["\u2581cream", -2.0], ["cold", -3.0]]
    cut = TagWords(tokenizer_file(tmp_path, pieces))
    assert cut.split("icecream") == "ice cream"
    assert cut.split("icecold") == "icecold"


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("signsandsymbols", "signs and symbols"),
        ("unitednationsmember", "united nations member"),
        ("boatnonspecific", "boat non specific"),
        ("flower", "flower"),
        ("pixiv", "pixiv"),
        ("höhe", "höhe"),
    ],
)
def test_the_default_encoder_s_words(tag: str, words: str) -> None:
    encoders = load_encoders(EncodersSection(), frozenset({"text_vector"}), "cpu")
    assert TagWords(encoders.text_tokenizer_file).split(tag) == words
