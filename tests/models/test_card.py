"""The model card says what is given and nothing else."""

from hashtag_core.data.model_record import ModelDescription
from hashtag_core.models.card import model_card

DESCRIBED: ModelDescription = {
    "family": "linear",
    "version": "abc",
    "options": {"inputs": ["image", "caption"], "a": "x|y"},
}


def test_a_bare_model() -> None:
    lines = model_card(DESCRIBED, "a paper", 1234, 56789).splitlines()
    assert lines[0] == "# linear, version abc"
    assert "Ranks 1,234 hashtags for a post. Family `linear`: a paper" in lines
    assert "| inputs | image, caption |" in lines
    assert "| numbers in `weights.safetensors` | 56,789 |" in lines
    assert "| `a` | x\\|y |" in lines
    assert "## Figures" not in lines
    assert not [line for line in lines if line.startswith("| dataset")]


def test_what_training_tells() -> None:
    told: ModelDescription = {
        **DESCRIBED, "name": "m", "dataset": {"uri": "d", "content_hash": "h", "posts": {"train": 5}}, "k": 4,
        "metrics": {"f1_at_1": 0.25, "coverage": 1.0},
    }  # fmt: skip
    lines = model_card(told, "a paper", 1, 2).splitlines()
    assert lines[0] == "# m, version abc"
    assert "| dataset | uri: d, content_hash: h, posts: train: 5 |" in lines
    assert "| k | 4 |" in lines
    assert lines[lines.index("| metric | value |") + 2 :][:2] == ["| `coverage` | 1.0000 |", "| `f1_at_1` | 0.2500 |"]
