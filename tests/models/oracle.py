"""An independent reading of the articles: the layers of `torch` in NumPy, float64, and what a whole-model test needs.

A family's whole forward pass is written out in `test_whole_*.py` with these, from the equations at the head of its file, and
compared with the model's loss and scores on weights that no activation, gate or mask leaves without effect.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets, make_targets
from hashtag_core.models import NeuralModel
from tests.models.world import Subject, V, world

Array = np.ndarray

ROWS = [20, 21, 22, 23, 24, 26, 30, 41]
IMAGE = [True, True, True, False, True, True, False, True]
CAPTION = [True, False, True, True, True, True, False, True]
"""Posts with both, with one and with nothing; the fifth has no tag of the vocabulary (row 24)."""
TAGS = [list(world().tags[row]) for row in ROWS]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array, axis: int = -1) -> Array:
    shares = np.exp(x - x.max(axis=axis, keepdims=True))
    return shares / shares.sum(axis=axis, keepdims=True)


def log_softmax(x: Array) -> Array:
    top = x.max(axis=-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def array(value: Tensor | None) -> Array:
    assert value is not None
    return value.detach().double().numpy() if value.is_floating_point() else value.detach().numpy()


def vivid(model: nn.Module, seed: int = 1) -> None:
    """Weights large enough that every tanh bends, every gate moves and every bias counts, norms that are not 1 and 0."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            spread = 1.5 / np.sqrt(value.shape[-1]) if value.ndim > 1 else 0.5
            value.copy_(torch.randn(value.shape, generator=rng) * spread)
            if "norm" in name.lower() and name.endswith("weight"):
                value.add_(1)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(torch.randn(value.shape, generator=rng) * 0.3)
            elif name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=rng) + 0.5)


def dropped(x: Array, p: float) -> Array:
    """Dropout whose draw depends on nothing but the rate and the shape of what it is applied to."""
    kept = np.random.default_rng([round(1000 * p), *x.shape]).random(x.shape) >= p
    return x * kept / (1 - p)


@contextmanager
def predictable_dropout() -> Iterator[None]:
    """Every dropout of torch, in training, is `dropped`: its places and rates can be checked."""

    def dropout(values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return values
        return values * torch.from_numpy(dropped(np.ones(tuple(values.shape)), p)).to(values.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "dropout", dropout)
        yield


class Layers:
    """The layers of one model, by their names in its state dict."""

    def __init__(self, model: nn.Module, training: bool = False) -> None:
        self.w = {name: array(value) for name, value in model.state_dict().items()}
        self.training = training

    def __getitem__(self, name: str) -> Array:
        return self.w[name]

    def drop(self, x: Array, p: float) -> Array:
        return dropped(x, p) if self.training else x

    def linear(self, name: str, x: Array) -> Array:
        return x @ self[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)

    def layer_norm(self, name: str | None, x: Array, eps: float = 1e-5) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
        return normal if name is None else normal * self[f"{name}.weight"] + self[f"{name}.bias"]

    def batch_norm(self, name: str, x: Array, eps: float = 1e-5) -> Array:
        mean, var = self[f"{name}.running_mean"], self[f"{name}.running_var"]
        if self.training:
            mean, var = x.mean(axis=0), x.var(axis=0)
        return (x - mean) / np.sqrt(var + eps) * self[f"{name}.weight"] + self[f"{name}.bias"]

    def lstm_cell(self, name: str, x: Array, h: Array, c: Array, suffix: str = "") -> tuple[Array, Array]:
        w, u = self[f"{name}.weight_ih{suffix}"], self[f"{name}.weight_hh{suffix}"]
        gates = x @ w.T + self[f"{name}.bias_ih{suffix}"] + h @ u.T + self[f"{name}.bias_hh{suffix}"]
        i, f, g, o = np.split(gates, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    def lstm(self, name: str, xs: Array, suffix: str = "_l0") -> tuple[Array, Array, Array]:
        """States [T, H], the last state and the last cell, of one sequence [T, E] from zero."""
        h = c = np.zeros(self[f"{name}.weight_hh{suffix}"].shape[1])
        states = []
        for x in xs:
            h, c = self.lstm_cell(name, x, h, c, suffix)
            states.append(h)
        return np.array(states), h, c

    def bilstm(self, name: str, xs: Array) -> Array:
        """[T, 2 H]: forward and backward states of each step."""
        forward, backward = self.lstm(name, xs)[0], self.lstm(name, xs[::-1], "_l0_reverse")[0][::-1]
        return np.concatenate([forward, backward], axis=1)

    def gru_cell(self, name: str, x: Array, h: Array) -> Array:
        """Torch's: the reset gate outside U."""
        xs = np.split(x @ self[f"{name}.weight_ih"].T + self[f"{name}.bias_ih"], 3, axis=-1)
        hs = np.split(h @ self[f"{name}.weight_hh"].T + self[f"{name}.bias_hh"], 3, axis=-1)
        r, z = sigmoid(xs[0] + hs[0]), sigmoid(xs[1] + hs[1])
        return (1 - z) * np.tanh(xs[2] + r * hs[2]) + z * h

    def caption(self, batch: PostBatch, encoder: bool = False) -> list[tuple[Array, Array, Array]]:
        """Of each post the states [T, H] of `caption.lstm`, the last one and the last cell; the absent one is learned."""
        found = []
        for b in range(len(batch)):
            xs = caption_inputs(self, batch, b, encoder)
            if len(xs):
                found.append(self.lstm("caption.lstm", xs))
            else:
                absent = self["caption.absent_D"]
                found.append((absent[None], absent, np.zeros_like(absent)))
        return found


def caption_inputs(layers: Layers, batch: PostBatch, b: int, encoder: bool, words: str = "caption.embedding") -> Array:
    """[T, E]: the words of a caption, or the text encoder's vectors of its tokens."""
    if encoder:
        return array(batch.text_states_BSD)[b][array(batch.text_states_mask_BS)[b]]
    return layers[f"{words}.weight"][array(batch.token_ids_BT)[b][array(batch.token_mask_BT)[b]]]


def bce(logits: Array, labels: Array) -> float:
    """Summed over the tags, the mean over the posts."""
    p = sigmoid(logits)
    return float(-(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum() / len(labels))


def one_softmax(logits: Array, labels: Array) -> float:
    return float(-(labels * log_softmax(logits)).sum() / len(labels))


Step = Callable[[list[int] | None, Any], tuple[Array, Any]]
"""(sign before of each post, None at the start; state) -> (logits [B, 1 + V], state); sign 0 is the end, tag v is v + 1."""


def written_loss(step: Step, state: Any, tags: list[list[int]], told: Callable[[], bool] = lambda: True) -> float:
    """- sum_t log p(sign t), the end included, the mean over the posts. `told`: is the next step shown the true sign?"""
    signs = [[*(tag + 1 for tag in row), 0] for row in tags]
    total, before = 0.0, None
    for t in range(max(map(len, signs))):
        logits, state = step(before, state)
        chances = log_softmax(logits)
        total -= sum(chances[b, row[t]] for b, row in enumerate(signs) if t < len(row))
        true = [row[t] if t < len(row) else 0 for row in signs]
        before = true if told() else [int(sign) for sign in logits.argmax(1)]
    return total / len(tags)


def written(step: Step, state: Any, steps: int) -> tuple[list[list[int]], list[list[float]], Array]:
    """Greedy search: tags and probabilities, best first, and 1 - prod_t (1 - alive_t p_t(tag))."""
    tags: list[list[int]] = []
    chances: list[list[float]] = []
    before = out = alive = None
    for _ in range(min(steps, V)):
        logits, state = step(before, state)
        p = softmax(logits)
        if out is None or alive is None:
            out, alive = np.ones((len(p), V)), np.ones(len(p))
            tags, chances = [[] for _ in p], [[] for _ in p]
        before = []
        for b, row in enumerate(p):
            best = max((v for v in range(V) if v not in tags[b]), key=lambda v: row[v + 1])
            tags[b].append(best)
            chances[b].append(row[best + 1])
            before.append(best + 1)
        out = out * (1 - alive[:, None] * p[:, 1:])
        alive = alive * (1 - p[:, 0])
    assert out is not None
    return tags, chances, 1 - out


def written_scores(step: Step, state: Any, steps: int) -> Array:
    """The list in its order, no score above the one before it; all others below by their chance to be written."""
    tags, chances, inclusion = written(step, state, steps)
    scores = np.zeros_like(inclusion)
    for b, row in enumerate(tags):
        last = np.inf
        for tag, chance in zip(row, chances[b], strict=True):
            last = min(chance, last * (1 - 1e-6))
            scores[b, tag] = last
        for v in set(range(V)) - set(row):
            scores[b, v] = inclusion[b, v] * last * (1 - 1e-6)
    return scores


Forward = Callable[[Layers, PostBatch, Targets], tuple[float, Array | None]]
"""Loss and scores; scores None in training."""


def check_whole(subject: Subject, forward: Forward, trained: bool = True) -> None:
    """Loss and scores in eval mode, and the loss in training with predictable dropout, are `forward`'s."""
    model = subject.model
    assert isinstance(model, NeuralModel)
    vivid(model)
    batch, targets = subject.batch(ROWS, IMAGE, CAPTION), make_targets(TAGS, V)
    loss, scores = forward(Layers(model.eval()), batch, targets)
    assert scores is not None
    with torch.no_grad():
        assert model.loss(batch, targets).item() == pytest.approx(loss, rel=2e-5)
        np.testing.assert_allclose(model.score(batch).numpy(), scores, rtol=1e-4, atol=2e-6)
    assert scores.std() > 0.01
    if not trained:
        return
    layers = Layers(model.train(), training=True)
    with predictable_dropout(), torch.no_grad():
        found = model.loss(batch, targets).item()
    expected, _ = forward(layers, batch, targets)
    assert found == pytest.approx(expected, rel=2e-5)
    assert found != pytest.approx(loss, rel=1e-3)
