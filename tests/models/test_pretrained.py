"""What a family starts from: whole or refused, before any worker starts."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LxmertConfig, LxmertModel, PreTrainedTokenizerFast

from hashtag_core.data.tokens import CaptionTokenizer
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.models import InputSpec, create_model
from hashtag_core.models.lxmert4hashtag import TINY, Lxmert4Hashtag
from hashtag_core.models.pretrained import check_word_vectors

SPEC = InputSpec(5, image_dim=24, token_vocabulary_size=8, max_tokens=16)


def tiny_lxmert(folder: Path, **changes: int) -> LxmertModel:
    sizes = {
        "vocab_size": 8,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "visual_feat_dim": 24,
    }
    layers = {"l_layers": 2, "r_layers": 1, "x_layers": 2}
    model = LxmertModel(LxmertConfig(**{**sizes, **layers, **changes}))
    model.save_pretrained(folder)
    return model


def tiny_bert(layers: int) -> BertModel:
    sizes = {"vocab_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(**sizes, num_hidden_layers=layers))


def words(*extra: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({w: n for n, w in enumerate(["[PAD]", "[UNK]", *extra])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def started(folder: Path | str, **options: Any) -> Lxmert4Hashtag:
    with torch.device("meta"):
        model = create_model(
            "lxmert4hashtag",
            SPEC,
            TINY | {"language_layers": 2, "cross_layers": 2} | options | {"start": f"hf:{folder}"},
        )
    assert isinstance(model, Lxmert4Hashtag)
    return model


def test_a_whole_lxmert_is_let_through(tmp_path: Path) -> None:
    tiny_lxmert(tmp_path)
    started(tmp_path).check_start(None)


def test_a_bert_is_no_lxmert(tmp_path: Path) -> None:
    tiny_bert(2).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a LXMERT expected, found 'bert'"):
        started(tmp_path).check_start(None)


@pytest.mark.parametrize(
    ("options", "lacks"),
    [
        ({"language_layers": 3}, r"it lacks encoder\.layer\.2\..* and \d+ more, which would stay random"),
        ({"relation_layers": 2}, r"it lacks encoder\.r_layers\.1\."),
        ({"cross_layers": 3}, r"it lacks encoder\.x_layers\.2\."),
        ({"cross_layers": 1}, r"it has more than the options ask for: encoder\.x_layers\.1\."),
        ({"intermediate": 64}, r"it has other sizes: .*intermediate\.dense\.weight.*\(32, 16\), here \(64, 16\)"),
    ],
)
def test_what_the_source_lacks_is_named(tmp_path: Path, options: dict[str, int], lacks: str) -> None:
    tiny_lxmert(tmp_path)
    with pytest.raises(ConfigError, match=lacks):
        started(tmp_path, **options).check_start(None)


def test_weights_that_lack_a_part_of_their_own_configuration(tmp_path: Path) -> None:
    tiny_lxmert(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    del weights["encoder.x_layers.1.lang_self_att.self.query.weight"]
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights of its own.*x_layers\.1\.lang_self_att\.self\.query\.weight"):
        started(tmp_path).check_start(None)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cut_file_is_told_from_a_model(tmp_path: Path, share: float) -> None:
    tiny_lxmert(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(IntegrityError, match=r"weights of .* cannot be read"):
        started(tmp_path).check_start(None)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(NotFoundError, match="no LXMERT at"):
        started("/nowhere/at/all").check_start(None)


def test_word_ids_have_to_be_those_of_the_source(tmp_path: Path) -> None:
    """Of equal size, but another word at the third id."""
    tiny_lxmert(tmp_path)
    model = started(tmp_path)
    ours = CaptionTokenizer(words("cat", "dog"), 16)
    model.check_start(None, ours)  # without a tokenizer beside it the source cannot be asked
    PreTrainedTokenizerFast(tokenizer_object=words("cat", "dog")).save_pretrained(tmp_path)
    model.check_start(None, ours)
    PreTrainedTokenizerFast(tokenizer_object=words("dog", "cat")).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"another vocabulary .*\(4 words, here 4\): 'cat' is 3 there and 2 here"):
        model.check_start(None, ours)


def test_the_text_encoders_weights_are_whole_too(tmp_path: Path) -> None:
    tiny_bert(3).save_pretrained(tmp_path)
    options = TINY | {"start": "text_encoder", "language_layers": 3}
    model = create_model("lxmert4hashtag", SPEC, options)
    assert isinstance(model, Lxmert4Hashtag)
    model.check_start(str(tmp_path))
    file = tmp_path / "model.safetensors"
    weights = {k: v for k, v in safetensors.torch.load_file(file).items() if ".layer.2." not in k}
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights of its own configuration: encoder\.layer\.2"):
        model.check_start(str(tmp_path))


def test_word_vectors_are_looked_at_without_being_read(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text("2 3\ncat 1 2 3\ndog 4 5\n", encoding="utf-8")
    check_word_vectors(str(file), 3)
    with pytest.raises(ConfigError, match="line 2: 4 numbers expected"):
        check_word_vectors(str(file), 4)
    file.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="no word vectors in it"):
        check_word_vectors(str(file), 4)
    with pytest.raises(NotFoundError, match="word_vectors: no file"):
        check_word_vectors(str(tmp_path / "other.txt"), 4)
    file.write_text("cat one 2 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1: numbers expected, found 'one'"):
        check_word_vectors(str(file), 3)
