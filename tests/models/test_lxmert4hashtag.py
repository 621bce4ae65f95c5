"""LXMERT4Hashtag against its article's formulas in NumPy, and against transformers' own LXMERT."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import Tensor
from transformers import BertConfig, BertModel, LxmertConfig, LxmertModel

from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.models import InputSpec, create_model, parse_options
from hashtag_core.models.lxmert4hashtag import TINY, Lxmert4Hashtag
from tests.models.world import Subject, make, targets


def array(value: Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def affine(layer: torch.nn.Linear, values: np.ndarray) -> np.ndarray:
    return values @ array(layer.weight).T + array(layer.bias)


def layer_norm(layer: torch.nn.LayerNorm, values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.eps)
    return normal * array(layer.weight) + array(layer.bias)


def model_of(subject: Subject) -> Lxmert4Hashtag:
    assert isinstance(subject.model, Lxmert4Hashtag)
    return subject.model.eval()


def test_regions_are_the_mean_of_feature_and_box() -> None:
    """f^ = LayerNorm(W_F f + b_F), p^ = LayerNorm(W_P p + b_P), v = (p^ + f^) / 2."""
    encoder = model_of(make("lxmert4hashtag")).lxmert.encoder.visn_fc
    features, boxes = torch.randn(2, 9, 24), torch.rand(2, 9, 4)
    f = layer_norm(encoder.visn_layer_norm, affine(encoder.visn_fc, array(features)))
    p = layer_norm(encoder.box_layer_norm, affine(encoder.box_fc, array(boxes)))
    np.testing.assert_allclose(array(encoder(features, boxes)), (p + f) / 2, atol=1e-5)


@pytest.mark.parametrize("cls", ["pooler", "raw"])
def test_head(cls: str) -> None:
    """tags = Linear(LayerNorm(GELU(Linear([CLS])))), [CLS] of the last cross-modality layer through tanh(Linear), or raw."""
    subject = make("lxmert4hashtag", cls=cls)
    model, batch = model_of(subject), subject.batch([3, 5, 8])
    output = model.lxmert(
        input_ids=batch.token_ids_BT,
        attention_mask=batch.token_mask_BT,
        visual_feats=batch.image_grid_BRD,
        visual_pos=batch.boxes_BR4,
    )
    state = array(output.language_output)[:, 0]
    if cls == "pooler":
        state = np.tanh(affine(model.lxmert.pooler.dense, state))
    first, _, norm, _, last = model.head
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(norm, torch.nn.LayerNorm)
    assert isinstance(last, torch.nn.Linear)
    assert first.out_features == 2 * TINY["hidden"]
    wide = affine(first, state)
    wide = wide * (1 + erf(wide / np.sqrt(2))) / 2
    expected = affine(last, layer_norm(norm, wide))
    np.testing.assert_allclose(array(model.logits(batch)), expected, atol=1e-4)
    np.testing.assert_allclose(array(subject.scores(batch)), 1 / (1 + np.exp(-expected)), atol=1e-5)


def test_loss_is_bce_summed_over_tags() -> None:
    subject = make("lxmert4hashtag")
    model, batch, wanted = model_of(subject), subject.batch([3, 5]), targets([3, 5])
    p, y = array(torch.sigmoid(model.logits(batch))), array(wanted.labels_BV)
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum() / 2
    assert model.loss(batch, wanted).item() == pytest.approx(expected, rel=1e-5)


def test_parameters_of_the_paper_recipe() -> None:
    """500 tags, regions of 2,048: transformers' LXMERT of 9/5/5 layers and the head 768 -> 1,536 -> 500."""
    spec = InputSpec(500, image_dim=2048, token_vocabulary_size=30_522, max_tokens=128)
    with torch.device("meta"):
        model = create_model("lxmert4hashtag", spec)
        lxmert = LxmertModel(LxmertConfig())
    attention, feed_forward = 4 * (768 * 768 + 768) + 2 * 768, 768 * 3072 + 3072 + 3072 * 768 + 768 + 2 * 768
    embeddings = (30_522 + 512 + 2) * 768 + 2 * 768
    regions = 2048 * 768 + 4 * 768 + 6 * 768
    layers = 14 * (attention + feed_forward) + 5 * (3 * attention + 2 * feed_forward)
    own = embeddings + regions + layers + 768 * 768 + 768
    head = 768 * 1536 + 1536 + 2 * 1536 + 1536 * 500 + 500
    assert sum(p.numel() for p in lxmert.parameters()) == own == 207_936_768
    assert sum(p.numel() for p in model.parameters()) == own + head + 2048 + 768 == 209_892_340
    idle = attention + feed_forward + 2 * 768
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == idle


def tiny_spec() -> InputSpec:
    return InputSpec(5, image_dim=24, token_vocabulary_size=50, max_tokens=16)


def test_starts_from_a_pretrained_lxmert(tmp_path: Path) -> None:
    config = LxmertConfig(
        vocab_size=50,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        l_layers=1,
        r_layers=1,
        x_layers=1,
        visual_feat_dim=24,
    )
    source = LxmertModel(config)
    source.save_pretrained(tmp_path)
    model = create_model("lxmert4hashtag", tiny_spec(), TINY | {"start": f"hf:{tmp_path}"})
    assert isinstance(model, Lxmert4Hashtag)
    model.initialise(None)
    for key, value in source.state_dict().items():
        assert torch.equal(model.lxmert.state_dict()[key], value), key
    pretrained = model.pretrained_parameters()
    assert "lxmert.pooler.dense.weight" in pretrained
    assert "lxmert.encoder.visn_fc.visn_fc.weight" not in pretrained
    wider = create_model(
        "lxmert4hashtag", InputSpec(5, image_dim=8, token_vocabulary_size=50), TINY | {"start": f"hf:{tmp_path}"}
    )
    assert isinstance(wider, Lxmert4Hashtag)
    wider.initialise(None)
    assert torch.equal(wider.lxmert.pooler.dense.weight, source.pooler.dense.weight)
    deeper = create_model("lxmert4hashtag", tiny_spec(), TINY | {"start": f"hf:{tmp_path}", "intermediate": 64})
    assert isinstance(deeper, Lxmert4Hashtag)
    with pytest.raises(ConfigError, match="other sizes or layers"):
        deeper.initialise(None)


def test_starts_from_the_text_encoder(tmp_path: Path) -> None:
    """With the language side alone copied, its output is BERT's own."""
    config = BertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2)
    source = BertModel(config).eval()
    source.save_pretrained(tmp_path)
    model = create_model("lxmert4hashtag", tiny_spec(), TINY | {"start": "text_encoder", "language_layers": 2})
    assert isinstance(model, Lxmert4Hashtag)
    model.initialise(str(tmp_path))
    model.eval()
    ids, mask = torch.randint(0, 50, (2, 7)), torch.tensor([[1.0] * 7, [1.0] * 4 + [0.0] * 3])
    hidden = model.lxmert.embeddings(ids, torch.zeros_like(ids))
    for layer in model.lxmert.encoder.layer:
        hidden = layer(hidden, (1 - mask[:, None, None]) * torch.finfo(torch.float32).min)[0]
    expected = source(ids, mask).last_hidden_state
    torch.testing.assert_close(hidden[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-5)
    assert {name.split(".")[1] for name in model.pretrained_parameters()} == {"embeddings", "encoder"}


def test_what_cannot_be_started_from(tmp_path: Path) -> None:
    model = create_model("lxmert4hashtag", tiny_spec(), TINY | {"start": f"hf:{tmp_path}/none"})
    assert isinstance(model, Lxmert4Hashtag)
    with pytest.raises(NotFoundError, match="no LXMERT at"):
        model.initialise(None)
    model = create_model("lxmert4hashtag", tiny_spec(), TINY | {"start": "text_encoder"})
    assert isinstance(model, Lxmert4Hashtag)
    with pytest.raises(ConfigError, match="no folder"):
        model.initialise(None)
    LxmertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a BERT expected, found 'lxmert'"):
        model.initialise(str(tmp_path))
    with pytest.raises(ConfigError, match="no multiple of heads"):
        parse_options("lxmert4hashtag", {"hidden": 10, "heads": 4})
    with pytest.raises(ConfigError, match="'text_encoder' or 'hf:"):
        parse_options("lxmert4hashtag", {"start": "bert"})
