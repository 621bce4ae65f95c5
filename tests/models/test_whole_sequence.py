"""The families that write tags one after another: whole forward pass, loss and greedy list against NumPy."""

from typing import Any

import numpy as np
import pytest
import torch

from hashtag_core.data.batches import PostBatch, Targets, make_targets
from hashtag_core.models import NeuralModel
from hashtag_core.models.amnn import AmnnOptions
from tests.models.oracle import (
    CAPTION,
    IMAGE,
    ROWS,
    TAGS,
    Array,
    Layers,
    Step,
    array,
    caption_inputs,
    check_whole,
    predictable_dropout,
    relu,
    sigmoid,
    softmax,
    vivid,
    written_loss,
    written_scores,
)
from tests.models.world import V, make

P = 0.4
STEPS = 4


def judged(layers: Layers, step: Step, state: Any) -> tuple[float, Array | None]:
    loss = written_loss(step, state, TAGS)
    return loss, None if layers.training else written_scores(step, state, STEPS)


def signs(layers: Layers, before: list[int] | None, posts: int) -> Array:
    """The sign before, embedded; the last row is the start."""
    table = layers["signs.weight"]
    return table[[len(table) - 1] * posts] if before is None else table[before]


def amnn_image(w: Layers, batch: PostBatch, options: AmnnOptions, name: str = "image") -> Array:
    """Equations 1-8."""
    if options.attention == "literal":
        dense = w.drop(w.linear(f"{name}.dense", array(batch.image_vector_BD)), options.dropout)
        steps = np.repeat(dense[:, None], options.image_steps, axis=1)
    else:
        regions = array(batch.image_grid_BRD)
        regions = w.layer_norm(None, regions) if options.normalise_regions else regions
        steps = w.drop(w.linear(f"{name}.dense", regions), options.dropout)
    found = []
    for b, post in enumerate(steps):
        h = w.lstm(f"{name}.lstm", post)[0]
        e = w.linear(f"{name}.attend", np.tanh(w.linear(f"{name}.project", h)))
        if options.attention == "literal":
            x = np.array([softmax(e_i) @ h_i for e_i, h_i in zip(e, h, strict=True)])
        else:
            x = softmax(e[:, 0]) @ h
        found.append(x if IMAGE[b] else w[f"{name}.absent_D"])
    return np.array(found)


def amnn_text(w: Layers, batch: PostBatch, options: AmnnOptions) -> Array:
    """Equations 9-11 and the dense layer."""
    encoder = options.text_input == "encoder"
    mask = array(batch.text_states_mask_BS if encoder else batch.token_mask_BT)
    full = array(batch.text_states_BSD) if encoder else w["text.words.weight"][array(batch.token_ids_BT)]
    full = w.drop(full, options.dropout)
    found = []
    for b, there in enumerate(mask):
        if not there.any():
            found.append(w["text.absent_D"])
            continue
        h = w.bilstm("text.lstm", full[b][there])
        p = softmax(np.tanh(w.linear("text.project", h)), axis=0)
        dense = w.linear("text.dense", (p * h).sum(0))
        found.append(relu(dense) if options.text_activation == "relu" else dense)
    return np.array(found)


AMNN = {
    "default": {},
    "as printed": {"text_activation": "none"},
    "grid": {"attention": "grid", "merge": "add", "context": "every"},
    "encoder": {"text_input": "encoder", "feedback": "none"},
    "normalised": {"attention": "grid", "normalise_regions": True, "output_bias": True},
    "image": {"inputs": ["image"]},
    "caption": {"inputs": ["caption"]},
}


@pytest.mark.parametrize("example", AMNN)
def test_amnn(example: str) -> None:
    subject = make("amnn", dropout=P, decode_steps=STEPS, **AMNN[example])
    options = subject.options
    assert isinstance(options, AmnnOptions)

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        parts = []
        if "image" in options.inputs:
            parts.append(amnn_image(w, batch, options))
        if "caption" in options.inputs:
            parts.append(amnn_text(w, batch, options))
        if options.merge == "add" and len(parts) == 2:
            parts = [w.linear("reduce", parts[0]) + parts[1]]
        merged = w.linear("merge", w.drop(np.concatenate(parts, axis=1), P))
        both, new = w["cell.reset_and_update.weight"], w["cell.candidate.weight"]
        wide, hidden = merged.shape[1], len(new)

        def step(before: list[int] | None, h: Array) -> tuple[Array, Array]:
            x = merged
            if before is not None and options.feedback == "previous":
                tag = w.drop(w["tags.weight"][before], P)
                x = merged + tag if options.context == "every" else tag
            r = sigmoid(x @ both[:hidden, :wide].T + h @ both[:hidden, wide:].T)
            z = sigmoid(x @ both[hidden:, :wide].T + h @ both[hidden:, wide:].T)
            candidate = np.tanh(x @ new[:, :wide].T + (r * h) @ new[:, wide:].T)
            h = (1 - z) * h + z * candidate
            return w.linear("output", w.drop(h, P)), h

        return judged(w, step, np.zeros((len(batch), hidden)))

    check_whole(subject, forward)


@pytest.mark.parametrize("text_input", ["words", "encoder"])
def test_okboomer(text_input: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make("okboomer", dropout=P, decode_steps=STEPS, text_input=text_input, teacher_forcing=0.5)

    def start(w: Layers, batch: PostBatch) -> tuple[Array, Array, Array]:
        states = w.caption(batch, text_input == "encoder")
        v = np.tile(w["image.absent_D"], (len(batch), 1))
        v[IMAGE] = w.batch_norm("image.normalise", w.linear("image.project", array(batch.image_vector_BD)[IMAGE]))
        return v, np.array([last for _, last, _ in states]), np.array([cell for *_, cell in states])

    def stepper(w: Layers) -> Step:
        def step(before: list[int] | None, state: Any) -> tuple[Array, Any]:
            v, h, c = state
            h, c = w.lstm_cell("lstm", w.drop(np.concatenate([v, signs(w, before, len(v))], axis=1), P), h, c)
            return w.linear("write", w.drop(h, P)), (v, h, c)

        return step

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        return judged(w, stepper(w), start(w, batch))

    check_whole(subject, forward, trained=False)
    model = subject.model
    assert isinstance(model, NeuralModel)
    batch, targets = subject.batch(ROWS, IMAGE, CAPTION), make_targets(TAGS, V)
    before = Layers(model.train(), training=True)
    draws, again = iter([0.2, 0.7, 0.51, 0.49, 0.9]), iter([0.2, 0.7, 0.51, 0.49, 0.9])
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.tensor(next(draws)))
    with predictable_dropout():
        found = model.loss(batch, targets).item()
    expected = written_loss(stepper(before), start(before, batch), TAGS, lambda: next(again) < 0.5)
    assert found == pytest.approx(expected, rel=2e-5)
    shown = before.linear("image.project", array(batch.image_vector_BD)[IMAGE])
    after = Layers(model)
    for name, value in (("mean", shown.mean(0)), ("var", shown.var(0, ddof=1))):
        key = f"image.normalise.running_{name}"
        np.testing.assert_allclose(after[key], 0.99 * before[key] + 0.01 * value, atol=1e-6)  # momentum 0.01


def test_nic() -> None:
    subject = make("nic", dropout=P, decode_steps=STEPS)

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        image = w.linear("image.project", array(batch.image_vector_BD))
        image[~np.array(IMAGE)] = w["image.absent_D"]
        nothing = np.zeros((len(batch), image.shape[1]))
        first = w.lstm_cell("lstm", w.drop(image, P), nothing, nothing)

        def step(before: list[int] | None, state: Any) -> tuple[Array, Any]:
            h, c = w.lstm_cell("lstm", w.drop(signs(w, before, len(state[0])), P), *state)
            return w.linear("write", w.drop(h, P)), (h, c)

        return judged(w, step, first)

    check_whole(subject, forward)


def test_show_attend_tell() -> None:
    subject = make("show_attend_tell", dropout=P, decode_steps=STEPS, coverage=0.7)

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        a = array(batch.image_grid_BRD).copy()
        a[~np.array(IMAGE)] = w["absent_D"]
        h, c = (np.tanh(w.linear(f"initial_{name}", a.mean(axis=1))) for name in ("hidden", "cell"))
        looks: list[Array] = []

        def step(before: list[int] | None, state: Any) -> tuple[Array, Any]:
            h, c = state
            e = np.tanh(w.linear("region_key", a) + w.linear("hidden_key", h)[:, None]) @ w["look.weight"][0]
            alpha = softmax(e)
            looks.append(alpha)
            z = sigmoid(w.linear("gate", h)) * np.einsum("br,brd->bd", alpha, a)
            y = signs(w, before, len(h))
            h, c = w.lstm_cell("lstm", np.concatenate([y, z], axis=1), h, c)
            out = y + w.linear("from_hidden", w.drop(h, P)) + w.linear("from_context", z)
            return w.linear("write", w.drop(out, P)), (h, c)

        loss, scores = judged(w, step, (h, c))
        for b, row in enumerate(TAGS):
            looked = sum(looks[t][b] for t in range(len(row) + 1))
            loss += 0.7 * ((1 - looked) ** 2).sum() / len(TAGS)
        return loss, scores

    check_whole(subject, forward)


def test_what_the_helpers_assume() -> None:
    """A post with nothing, one without a tag, one with several; captions of more than one length."""
    subject = make("amnn")
    vivid(subject.model)
    batch = subject.batch(ROWS, IMAGE, CAPTION)
    assert not all(IMAGE)
    assert not all(CAPTION)
    assert any(not image and not caption for image, caption in zip(IMAGE, CAPTION, strict=True))
    assert {0, 1, 2} <= {len(row) for row in TAGS}
    words = [len(caption_inputs(Layers(subject.model), batch, b, False, "text.words")) for b in range(len(batch))]
    assert len(set(words)) > 3
