"""#okboomer: batch normalisation where images are missing, teacher forcing, word vectors, initialisation, sub-words."""

import numpy as np
import pytest
import torch

from hashtag_core.data.batches import make_targets
from hashtag_core.data.tokens import CaptionTokenizer, TokenizerSpec
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.models.base import InputSpec
from hashtag_core.models.okboomer import NormalisedImage
from hashtag_core.models.registry import create_model
from tests.models.signs import TAGS, Writer, spell
from tests.models.small import assert_paper_parameters, batch_of

SPEC = InputSpec(vocabulary_size=4, image_dim=3, token_vocabulary_size=9)


TINY = {"embedding": 4, "hidden": 5, "dropout": 0.0}


def test_absent_images_move_no_statistics():
    image = NormalisedImage(SPEC, 4)
    batch = batch_of(SPEC, images=[True, False, True, True])
    out = image(batch).detach().numpy()
    seen = image.project(batch.image_vector_BD[batch.image_present_B]).detach().double().numpy()
    expected = (seen - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5)
    np.testing.assert_allclose(out[[0, 2, 3]], expected, atol=1e-4)
    np.testing.assert_allclose(out[1], image.absent_D.detach(), atol=1e-7)
    np.testing.assert_allclose(image.normalise.running_mean, 0.01 * seen.mean(0), atol=1e-6)


@pytest.mark.parametrize("present", [[True, False], [False, False]])
def test_one_image_or_none_in_a_batch(present):
    image = NormalisedImage(SPEC, 4).train()
    out = image(batch_of(SPEC, images=present))
    assert out.isfinite().all()
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in image.parameters())
    assert not image.normalise.running_mean.any()


def test_the_image_is_read_at_every_step_and_the_caption_once():
    torch.manual_seed(0)
    model = create_model("okboomer", SPEC, TINY).eval()
    glance = model.start(batch_of(SPEC, captions=[[2, 3]], images=[True]))
    _, after = model.step(torch.tensor([1]), glance)
    x = np.concatenate([glance.image_BE[0].detach().numpy(), model.signs.weight[1].detach().numpy()])
    w = {name: value.detach().double().numpy() for name, value in model.lstm.named_parameters()}
    gates = x @ w["weight_ih"].T + glance.hidden_BH[0].detach().numpy() @ w["weight_hh"].T
    i, f, g, o = np.split(gates, 4)
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    cell = sigmoid(f) * glance.cell_BH[0].detach().numpy() + sigmoid(i) * np.tanh(g)
    np.testing.assert_allclose(after.hidden_BH[0].detach(), sigmoid(o) * np.tanh(cell), atol=1e-6)


def test_weights_are_xaviers():
    model = create_model("okboomer", SPEC, {"embedding": 40, "hidden": 50})
    for gate in model.lstm.weight_hh.detach().chunk(4):
        assert gate.abs().max() <= np.sqrt(6 / 100)
        assert float(gate.std()) == pytest.approx(np.sqrt(2 / 100), rel=0.1)
    assert not model.lstm.bias_ih.any()
    assert not model.caption.embedding.weight[SPEC.pad_token_id].any()


def test_word_vectors_are_read(tmp_path):
    tokenizer = CaptionTokenizer.build_words(["sun sea"], TokenizerSpec("words", 8))
    vectors = tmp_path / "glove.txt"
    vectors.write_text("sun 1 2 3 4\nmoon 5 6 7 8\n")
    spec = InputSpec(vocabulary_size=4, image_dim=3, token_vocabulary_size=tokenizer.size)
    options = TINY | {"word_vectors": str(vectors), "embedding": 4}
    model = create_model("okboomer", spec, options, ["sea", "moon", "beach", "sun"])
    before = model.signs.weight.clone()
    model.check_start(None, tokenizer)
    model.initialise(None, tokenizer)
    assert model.caption.embedding.weight[tokenizer.words()["sun"]].tolist() == [1, 2, 3, 4]
    assert model.signs.weight[2].tolist() == [5, 6, 7, 8]  # the tag "moon": article 004 gives the decoder GloVe too
    assert model.signs.weight[4].tolist() == [1, 2, 3, 4]
    assert torch.equal(model.signs.weight[[0, 1, 3, 5]], before[[0, 1, 3, 5]])
    vectors.write_text("sun 1 2 3\n")
    with pytest.raises(ConfigError, match="line 1"):
        model.initialise(None, tokenizer)
    vectors.unlink()
    with pytest.raises(NotFoundError, match="glove"):
        model.initialise(None, tokenizer)


def test_targets_beyond_twenty_tags_are_taught():
    spec = InputSpec(vocabulary_size=40, image_dim=3, token_vocabulary_size=9)
    model = create_model("okboomer", spec, TINY)
    loss = model.loss(batch_of(spec, captions=[[2]], images=[True]), make_targets([list(range(40))], 40))
    assert loss.isfinite()


def test_parameters_of_the_paper_recipe():
    spec = InputSpec(vocabulary_size=1000, image_dim=2048, token_vocabulary_size=20_000)
    image = 2048 * 300 + 300 + 2 * 300 + 300
    caption = 20_000 * 300 + 4 * 512 * (300 + 512 + 2) + 512
    decoder = 1002 * 300 + 4 * 512 * (600 + 512 + 2) + 512 * 1001 + 1001
    assert_paper_parameters("okboomer", spec, image + caption + decoder)


def test_a_narrow_beam_finds_some_tags_and_never_another():
    writer = Writer(264, 3)
    everything, _ = spell(TAGS).tag_step(writer)(None, writer.begin)
    narrow, _ = spell(TAGS, beam_width=2).tag_step(writer)(None, writer.begin)
    found = narrow.isfinite()
    assert found[:, 1:].any(1).all()
    assert not found.all()
    torch.testing.assert_close(narrow[found], everything[found])
