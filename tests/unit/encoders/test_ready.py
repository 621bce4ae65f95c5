"""The default encoders from graphs that an earlier run exported: the same features, and neither network nor transformers loaded."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hashtag_core.config import EncodersSection
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders import text as text_encoders
from hashtag_core.encoders.text import FileTokenizer, tokenizer_file
from hashtag_core.encoders.text_onnx import OnnxTextBackend

CAPTIONS = [
    "Harbour at dawn",
    "  ÜNÏ  code, naïve café\u0301 — “quoted”\t\n",
    "漢字とかな 한국어 مرحبا بالعالم",
    "🌅🌅 #sunrise @someone https://example.org/a?b=c",
    "",
    "x" * 300,
    "word " * 400,
    "[CLS] [SEP] [PAD] [MASK] \x00 \ufffd",
]
LENGTHS = (8, 64, 512)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_library_tokenizers_gives_the_ids_of_transformers(length: int) -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(text_encoders.text_source("minilm"))
    ours = FileTokenizer(tokenizer_file("minilm"), length)
    expected = oracle(CAPTIONS, truncation=True, max_length=length)["input_ids"]
    assert ours(CAPTIONS, truncation=True, max_length=length)["input_ids"] == expected
    assert ours.pad_token_id == oracle.pad_token_id


def test_a_graph_that_is_there_is_taken_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    needs = frozenset({"image_vector", "image_grid", "text_vector", "text_states"})
    section = EncodersSection(backend="onnx")
    pictures = [np.random.default_rng(n).integers(0, 256, (224, 224, 3), np.uint8) for n in range(3)]
    assert OnnxTextBackend.ready("minilm", 128, ("text_vector",), 1) is None
    first = load_encoders(section, needs, "cpu")
    expected = {**first.encode_images(pictures), **first.encode_captions(CAPTIONS)}
    assert "backbone" in vars(first)
    again = load_encoders(section, needs, "cpu")
    found = {**again.encode_images(pictures), **again.encode_captions(CAPTIONS)}
    assert "backbone" not in vars(again), "its network was made all the same"
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    code = (
        "import sys\nfrom hashtag_core.config import EncodersSection\nfrom hashtag_core.encoders import load_encoders\n"
        f"load_encoders(EncodersSection(backend='onnx'), frozenset({sorted(needs)!r}), 'cpu').encode_captions(['a'])\n"
        "print('transformers' in sys.modules, 'efficientnet_lite_pytorch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
