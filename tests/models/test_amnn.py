"""AMNN's equations, computed again in NumPy as article 003 prints them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hashtag_core.data.batches import END, PADDING, make_targets
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.models import InputSpec, create_model, parse_options
from hashtag_core.models.amnn import TINY, Amnn, AmnnOptions, GRUCell, ImageEncoder, TextEncoder
from hashtag_core.models.pretrained import copy_word_vectors
from tests.models.world import TAGS, Subject, V, make, world


def array(value: Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def softmax(values: np.ndarray, axis: int) -> np.ndarray:
    raised = np.exp(values - values.max(axis=axis, keepdims=True))
    return raised / raised.sum(axis=axis, keepdims=True)


def affine(layer: torch.nn.Linear, values: np.ndarray) -> np.ndarray:
    bias = 0 if layer.bias is None else array(layer.bias)
    return values @ array(layer.weight).T + bias


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def model_of(subject: Subject) -> Amnn:
    assert isinstance(subject.model, Amnn)
    return subject.model.eval()


def test_image_attention_as_printed() -> None:
    """(6) h^_i = tanh(W h_i + b); (7) p_i = softmax over the units of step i; (8) X_f,i = p_i h_i^T, one number a step."""
    torch.manual_seed(1)
    encoder = ImageEncoder(AmnnOptions(image_hidden=5, image_steps=4), InputSpec(3, image_dim=7))
    states = torch.randn(2, 4, 5)
    expected = np.zeros((2, 4))
    for post, step in np.ndindex(2, 4):
        h = array(states)[post, step]
        hat = np.tanh(affine(encoder.project, h))
        p = softmax(affine(encoder.attend, hat), axis=0)
        expected[post, step] = p @ h
    np.testing.assert_allclose(array(encoder.attention(states)), expected, atol=1e-6)
    assert encoder.out == 4


def test_image_attention_over_a_grid() -> None:
    """softmax over the cells, X_f = sum_i p_i h_i."""
    torch.manual_seed(1)
    encoder = ImageEncoder(AmnnOptions(attention="grid", image_hidden=5), InputSpec(3, image_dim=7))
    states = torch.randn(2, 9, 5)
    h = array(states)
    p = softmax(affine(encoder.attend, np.tanh(affine(encoder.project, h))), axis=1)
    assert p.shape == (2, 9, 1)
    np.testing.assert_allclose(array(encoder.attention(states)), (p * h).sum(axis=1), atol=1e-6)


def test_the_lstm_reads_the_pooled_vector_again_and_again() -> None:
    """(1)-(5), by hand: the same input at every step, gates in torch's order i, f, g, o."""
    torch.manual_seed(1)
    options = AmnnOptions(image_dense=3, image_hidden=4, image_steps=5, dropout=0.0)
    encoder = ImageEncoder(options, InputSpec(3, image_dim=6)).eval()
    subject = make("amnn")
    vector = torch.randn(2, 6)
    batch = subject.batch([1, 2])
    batch = type(batch)(
        batch.post_ids, batch.user_ids, torch.tensor([True, False]), batch.text_present_B, image_vector_BD=vector
    )
    inputs = affine(encoder.dense, array(vector)[0])
    weight_in, weight_h = array(encoder.lstm.weight_ih_l0), array(encoder.lstm.weight_hh_l0)
    bias = array(encoder.lstm.bias_ih_l0) + array(encoder.lstm.bias_hh_l0)
    h, c, states = np.zeros(4), np.zeros(4), []
    for _ in range(5):
        i, f, g, o = np.split(weight_in @ inputs + weight_h @ h + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    p = softmax(affine(encoder.attend, np.tanh(affine(encoder.project, np.array(states)))), axis=1)
    seen = array(encoder(batch))
    np.testing.assert_allclose(seen[0], (p * np.array(states)).sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(seen[1], array(encoder.absent_D))


def test_a_batch_without_any_caption_has_states_of_no_token() -> None:
    encoder = TextEncoder(AmnnOptions(text_input="encoder", text_hidden=3), InputSpec(3, text_dim=6)).eval()
    batch = make("amnn").batch([1, 2])
    batch = type(batch)(
        batch.post_ids, batch.user_ids, batch.image_present_B, torch.tensor([False, False]),
        text_states_BSD=torch.zeros(2, 0, 6), text_states_mask_BS=torch.zeros(2, 0, dtype=torch.bool),
    )  # fmt: skip
    np.testing.assert_allclose(array(encoder(batch)), np.tile(array(encoder.absent_D), (2, 1)))


def test_text_attention_as_printed() -> None:
    """(9) h- = tanh(W_t h + b_t); (10) p = softmax(h-) over the tokens, for each unit; (11) T_f = sum_t p_t . h_t."""
    torch.manual_seed(2)
    encoder = TextEncoder(AmnnOptions(text_hidden=3, embedding=4), InputSpec(3, token_vocabulary_size=9))
    states, lengths = torch.randn(2, 5, 6), [5, 2]
    mask = torch.tensor([[step < length for step in range(5)] for length in lengths])
    expected = []
    for post, length in enumerate(lengths):
        h = array(states)[post, :length]
        p = softmax(np.tanh(affine(encoder.project, h)), axis=0)
        np.testing.assert_allclose(p.sum(axis=0), 1)
        expected.append((p * h).sum(axis=0))
    np.testing.assert_allclose(array(encoder.attention(states, mask)), expected, atol=1e-6)


def test_gru_as_printed() -> None:
    """(14) r, (15) z, (16) h~ = tanh(W x + U (r . h)), (17) h = (1 - z) h + z h~; no biases."""
    torch.manual_seed(3)
    cell = GRUCell(3, 4)
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    gates, candidate = array(cell.reset_and_update.weight), array(cell.candidate.weight)
    w_r, u_r, w_z, u_z = gates[:4, :3], gates[:4, 3:], gates[4:, :3], gates[4:, 3:]
    w_h, u_h = candidate[:, :3], candidate[:, 3:]
    xs, hs = array(x), array(h)
    r = sigmoid(xs @ w_r.T + hs @ u_r.T)
    z = sigmoid(xs @ w_z.T + hs @ u_z.T)
    tilde = np.tanh(xs @ w_h.T + (r * hs) @ u_h.T)
    np.testing.assert_allclose(array(cell(x, h)), (1 - z) * hs + z * tilde, atol=1e-6)


@pytest.mark.parametrize("context", ["first", "every"])
@pytest.mark.parametrize("feedback", ["previous", "none"])
def test_objective_as_printed(context: str, feedback: str) -> None:
    """(12), (13), (18), (19): J = - sum_t log p(H_t | I, H_0 .. H_t-1), H_0 the encoder's output, END the last H."""
    model = model_of(make("amnn", context=context, feedback=feedback))
    batch = make("amnn").batch([3, 7])
    tags = [[5, 2], [1]]
    loss = 0.0
    for post, row in enumerate(tags):
        first = array(model.merge(model.features(batch)))[post]
        inputs, hidden = first, np.zeros(TINY["decoder_hidden"])
        for sign in [*(tag + 1 for tag in row), END]:
            step = model.cell(torch.tensor(inputs).float()[None], torch.tensor(hidden).float()[None])
            hidden = array(step)[0]
            p = softmax(hidden @ array(model.output.weight).T, axis=0)
            loss -= np.log(p[sign])
            if feedback == "none":
                continue
            assert model.tags is not None
            inputs = array(model.tags.weight)[sign] + (first if context == "every" else 0)
    taught = model.loss(batch, make_targets(tags, V))
    assert taught.item() == pytest.approx(loss / 2, rel=1e-5)


def test_concatenation_and_addition() -> None:
    both, added = model_of(make("amnn")), model_of(make("amnn", merge="add"))
    batch = make("amnn").batch([1, 2])
    assert both.image is not None
    assert both.text is not None
    expected = np.concatenate([array(both.image(batch)), array(both.text(batch))], axis=1)
    np.testing.assert_allclose(array(both.features(batch)), expected)
    assert added.image is not None
    assert added.text is not None
    assert added.reduce is not None
    expected = affine(added.reduce, array(added.image(batch))) + array(added.text(batch))
    np.testing.assert_allclose(array(added.features(batch)), expected, atol=1e-6)


def test_greedy_list_starts_with_what_was_decoded() -> None:
    subject = make("amnn", decode_steps=4)
    model, batch = model_of(subject), subject.batch(range(12))
    scores = subject.scores(batch)
    ranked = scores.argsort(dim=1, descending=True)
    state, previous, taken = model.start(batch), None, torch.zeros(12, V, dtype=torch.bool)
    for place in range(4):
        logits, state = model.step(previous, state)
        best = logits[:, 1:].masked_fill(taken, -torch.inf).argmax(dim=1)
        assert torch.equal(best, ranked[:, place])
        taken[torch.arange(12), best] = True
        previous = best + 1


def test_a_post_without_tags_is_taught_to_end() -> None:
    sequence = make_targets([[]], V).sequence_BL
    assert sequence.tolist() == [[END]]
    assert PADDING not in sequence


def test_parameters_of_the_paper_recipe() -> None:
    """V = 1,000 tags, ResNet-50 (2,048), 10,000 words. Dense 2048x128; LSTM 4(128+256+2)256; attention 2(256x256);
    embedding 10000x300; BiLSTM 2x4(300+128+2)128; attention 256x256; Dense 256x128; merge 384x256; tags 1001x256; GRU
    3(512x256); output 256x1001; learned absences 256 + 128."""
    spec = InputSpec(1000, image_dim=2048, token_vocabulary_size=10_000)
    image = 2048 * 128 + 128 + 4 * (128 + 256 + 2) * 256 + 2 * (256 * 256 + 256) + 256
    text = 10_000 * 300 + 2 * 4 * (300 + 128 + 2) * 128 + 256 * 256 + 256 + 256 * 128 + 128 + 128
    decoder = 384 * 256 + 256 + 1001 * 256 + 3 * 512 * 256 + 256 * 1001
    model = create_model("amnn", spec)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == image + text + decoder == 5_332_800


def test_word_vectors_are_copied_and_frozen(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("2 3\ncat 1 2 3\nnobody 4 5 6\nDOG 7 8 9\n", encoding="utf-8")
    subject = make("amnn", embedding=3, word_vectors=str(path))
    model = model_of(subject)
    model.initialise(None, subject.tokenizer)
    assert model.text is not None
    assert model.text.words is not None
    assert subject.tokenizer is not None
    assert model.text.words.weight[subject.tokenizer.words()["cat"]].tolist() == [1, 2, 3]
    assert not model.text.words.weight.requires_grad
    with pytest.raises(NotFoundError, match="word_vectors: no file at"):
        copy_word_vectors(torch.zeros(2, 3), str(tmp_path / "none.txt"), {})
    with pytest.raises(ConfigError, match=r"line 2: 4 numbers expected \(model.embedding\), found 3"):
        copy_word_vectors(torch.zeros(9, 4), str(path), {"cat": 1})
    with pytest.raises(ConfigError, match="none of the 2 words: bird, fish"):
        copy_word_vectors(torch.zeros(9, 3), str(path), {"fish": 1, "bird": 2})


def test_options_that_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="word_vectors needs"):
        parse_options("amnn", {"word_vectors": "x", "text_input": "encoder"})
    with pytest.raises(ConfigError, match="'caption', 'image'"):
        parse_options("amnn", {"inputs": ["history"]})


def test_one_modality_has_no_branch_for_the_other() -> None:
    assert model_of(make("amnn", "image")).text is None
    assert model_of(make("amnn", "caption")).image is None
    assert Amnn.needs(parse_options("amnn", {"inputs": ["image"]})) == {"image_vector"}
    assert Amnn.tokenizer(parse_options("amnn", {"inputs": ["image"]})) is None
    assert len(world().captions) > len(TAGS)
