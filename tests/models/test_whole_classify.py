"""The families that judge each tag, or share one softmax among them: whole forward pass, loss and scores against NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import digamma, erf
from transformers import LxmertConfig

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.models.amnn import AmnnOptions
from tests.models.oracle import (
    CAPTION,
    IMAGE,
    Array,
    Layers,
    array,
    bce,
    caption_inputs,
    check_whole,
    one_softmax,
    relu,
    sigmoid,
    softmax,
    unit,
)
from tests.models.test_whole_sequence import amnn_image
from tests.models.world import make

P = 0.4
SEEN = np.array(IMAGE)


def each(w: Layers, logits: Array, targets: Targets) -> tuple[float, Array | None]:
    return bce(logits, array(targets.labels_BV)), None if w.training else sigmoid(logits)


def one(w: Layers, logits: Array, targets: Targets) -> tuple[float, Array | None]:
    return one_softmax(logits, array(targets.labels_BV)), None if w.training else softmax(logits)


def guided(w: Layers, name: str, items: Array, guide: Array, joining: str) -> Array:
    keys, asked = items @ w[f"{name}.items.weight"].T, guide @ w[f"{name}.guide.weight"].T
    joined = keys + asked if joining == "sum" else np.concatenate([keys, np.tile(asked, (len(keys), 1))], axis=1)
    return softmax(np.tanh(joined) @ w[f"{name}.score.weight"][0]) @ items


@pytest.mark.parametrize("example", ["default", "concatenate", "image", "caption", "encoder"])
def test_co_attention(example: str) -> None:
    subject = make("co_attention", example, dropout=P)
    options: Any = subject.options

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        posts = []
        for b in range(len(batch)):
            h = w["caption.absent_D"][None]
            if "caption" in options.inputs:
                xs = caption_inputs(w, batch, b, options.text_input == "encoder")
                h = w.lstm("caption.lstm", xs)[0] if len(xs) else h
            v = w["absent_region_D"]
            if "image" in options.inputs and IMAGE[b]:
                regions = np.tanh(w.linear("regions", array(batch.image_grid_BRD)[b]))
                v = guided(w, "visual", regions, h.mean(0), options.joining)
            t = guided(w, "textual", h, v, options.joining) if "caption" in options.inputs else h.mean(0)
            posts.append(v + t)
        logits = w.linear("classify", w.drop(np.array(posts), P))
        return (each if options.loss == "bce" else one)(w, logits, targets)

    check_whole(subject, forward)


@pytest.mark.parametrize("example", ["default", "bce", "encoder"])
def test_tab_lstm(example: str) -> None:
    subject = make("tab_lstm", example, dropout=P)
    options: Any = subject.options
    model: Any = subject.model
    words = np.random.default_rng(3).gamma(0.3, size=tuple(model.topic_model.words_KW.shape))
    model.topic_model.words_KW.copy_(torch.from_numpy(words))

    def theta(w: Layers, ids: Array) -> Array:
        """The variational E-step of Hoffman, Blei and Bach, as scikit-learn stops it."""
        beta = w["topic_model.words_KW"]
        gamma = np.ones(len(beta))
        for _ in range(100):
            shares = np.exp(digamma(gamma) - digamma(gamma.sum()))
            phi = beta[:, ids] * shares[:, None]
            found = 1 / len(beta) + (phi / (phi.sum(0) + np.finfo(np.float32).eps)).sum(1)
            gamma, moved = found, np.abs(found - gamma).mean()
            if moved < 1e-3:
                break
        return gamma / gamma.sum()

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        posts = []
        for b, (h, *_) in enumerate(w.caption(batch, options.text_input == "encoder")):
            topics = theta(w, array(batch.token_ids_BT)[b][array(batch.token_mask_BT)[b]])
            hidden = np.tanh(w.linear("attention.topics", topics) + w.linear("attention.words", h))
            posts.append(softmax(hidden @ w["attention.score.weight"][0]) @ h)
        logits = w.linear("classify", w.drop(np.array(posts), P))
        return (each if options.loss == "bce" else one)(w, logits, targets)

    check_whole(subject, forward)


@pytest.mark.parametrize("example", ["default", "image", "caption", "encoder"])
def test_lstm_cnn(example: str) -> None:
    subject = make("lstm_cnn", example, dropout=P)
    options: Any = subject.options

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        text = np.tile(w["caption.absent_D"], (len(batch), 1))
        if "caption" in options.inputs:
            text = np.array([last for _, last, _ in w.caption(batch, options.text_input == "encoder")])
        image = np.tile(w["image.absent_D"], (len(batch), 1))
        if "image" in options.inputs:
            image[SEEN] = w.linear("image.project", array(batch.image_vector_BD)[SEEN])
        both = np.concatenate([w.linear("project", text), image], axis=1)
        return each(w, w.linear("classify", w.drop(both, P)), targets)

    check_whole(subject, forward)


@pytest.mark.parametrize("example", ["default", "amnn", "amnn_grid"])
def test_resnet_multilabel(example: str) -> None:
    subject = make("resnet_multilabel", example, dropout=P)
    options: Any = subject.options

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        if options.head_on == "resnet":
            image = array(batch.image_vector_BD).copy()
            image[~SEEN] = w["image.absent_D"]
        else:
            sizes = {name: getattr(options, name) for name in ("attention", "dropout", "image_steps")}
            image = amnn_image(w, batch, AmnnOptions(**sizes))
        return each(w, w.linear("classify", w.drop(image, P)), targets)

    check_whole(subject, forward)


@pytest.mark.parametrize("scene", ["second", "grid_max", "grid_mean"])
def test_vgg_object_scene(scene: str) -> None:
    subject = make("vgg_object_scene", scene=scene, dropout=P)

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        if scene == "second":
            place = array(batch.image_vector_second_BD)
        else:
            grid = array(batch.image_grid_BRD)
            place = grid.max(axis=1) if scene == "grid_max" else grid.mean(axis=1)
        both = np.concatenate([array(batch.image_vector_BD), place], axis=1)
        both[~SEEN] = w["absent_D"]
        hidden = w.drop(relu(w.linear("classify.0", both)), P)
        return each(w, w.linear("classify.3", hidden), targets)

    check_whole(subject, forward)


@pytest.mark.parametrize("example", ["default", "encoder", "image", "caption"])
def test_tweet_embedding(example: str) -> None:
    subject = make("tweet_embedding", example, dropout=P, temperature=0.3, alignment=0.7)
    options: Any = subject.options

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        labels, tags = array(targets.labels_BV), unit(w["tags"])

        def part(name: str, x: Array) -> Array:
            return unit(w.linear(f"{name}.layers.3", w.drop(relu(w.linear(f"{name}.layers.0", x)), P)))

        parts: list[tuple[Array, Array]] = []
        if "image" in options.inputs:
            parts.append((part("image", array(batch.image_vector_BD)), SEEN))
        if "caption" in options.inputs:
            x = array(batch.text_vector_BD) if options.text_input == "encoder" else np.zeros((len(batch), 16))
            for b in range(len(batch) if options.text_input == "words" else 0):
                vectors = caption_inputs(w, batch, b, False, "words")
                x[b] = vectors.mean(axis=0) if len(vectors) else 0
            parts.append((part("text", x), np.array(CAPTION)))

        def apart(vectors: Array, weight: Array) -> float:
            return one_softmax(vectors @ tags.T / 0.3, labels * weight[:, None])

        there = np.array([here for _, here in parts])
        posts = sum(z * here[:, None] for z, here in parts) / np.maximum(there.sum(0), 1)[:, None]
        posts[~there.any(0)] = w["absent_D"]
        posts = unit(posts)
        loss = apart(posts, np.ones(len(batch)))
        loss += sum(apart(z, here / np.maximum(there.sum(0), 1)) for z, here in parts)
        if len(parts) == 2:
            cosine = (parts[0][0] * parts[1][0]).sum(1)
            loss += 0.7 * ((1 - cosine) * there.all(0)).mean()
        return loss, None if w.training else (1 + posts @ tags.T) / 2

    check_whole(subject, forward)


def gelu(x: Array) -> Array:
    return x * (1 + erf(x / np.sqrt(2))) / 2


class Transformer:
    """LXMERT (Tan and Bansal 2019) of one post, without dropout."""

    def __init__(self, w: Layers, heads: int) -> None:
        self.w, self.heads = w, heads

    def norm(self, name: str, x: Array) -> Array:
        return self.w.layer_norm(name, x, eps=1e-12)

    def attention(self, name: str, inner: str, x: Array, context: Array) -> Array:
        """Multi-head attention of x to the context; `inner` is what the layer calls it. Then dense, residual, LayerNorm."""
        q, k, v = (
            self.w.linear(f"lxmert.encoder.{name}.{inner}.{part}", values)
            for part, values in (("query", x), ("key", context), ("value", context))
        )
        size = q.shape[1] // self.heads
        found = []
        for n in range(self.heads):
            part = slice(n * size, (n + 1) * size)
            found.append(softmax(q[:, part] @ k[:, part].T / np.sqrt(size)) @ v[:, part])
        name = f"lxmert.encoder.{name}.output"
        return self.norm(f"{name}.LayerNorm", x + self.w.linear(f"{name}.dense", np.concatenate(found, axis=1)))

    def feed_forward(self, inner: str, outer: str, x: Array) -> Array:
        wide = gelu(self.w.linear(f"lxmert.encoder.{inner}.dense", x))
        outer = f"lxmert.encoder.{outer}"
        return self.norm(f"{outer}.LayerNorm", x + self.w.linear(f"{outer}.dense", wide))

    def layer(self, name: str, x: Array) -> Array:
        x = self.attention(f"{name}.attention", "self", x, x)
        return self.feed_forward(f"{name}.intermediate", f"{name}.output", x)

    def cross_layer(self, name: str, h: Array, v: Array) -> tuple[Array, Array]:
        h, v = (
            self.attention(f"{name}.visual_attention", "att", h, v),
            self.attention(f"{name}.visual_attention", "att", v, h),
        )
        h = self.attention(f"{name}.lang_self_att", "self", h, h)
        v = self.attention(f"{name}.visn_self_att", "self", v, v)
        return (
            self.feed_forward(f"{name}.lang_inter", f"{name}.lang_output", h),
            self.feed_forward(f"{name}.visn_inter", f"{name}.visn_output", v),
        )

    def cls(self, words: Array, features: Array, boxes: Array) -> Array:
        """[CLS] of the last cross-modality layer."""
        w = self.w
        position = w["lxmert.embeddings.position_embeddings.weight"][: len(words)]
        kind = w["lxmert.embeddings.token_type_embeddings.weight"][0]
        h = self.norm("lxmert.embeddings.LayerNorm", words + position + kind)
        f = self.norm("lxmert.encoder.visn_fc.visn_layer_norm", w.linear("lxmert.encoder.visn_fc.visn_fc", features))
        p = self.norm("lxmert.encoder.visn_fc.box_layer_norm", w.linear("lxmert.encoder.visn_fc.box_fc", boxes))
        v = (p + f) / 2
        for n in range(2):
            h = self.layer(f"layer.{n}", h)
        v = self.layer("r_layers.0", v)
        for n in range(2):
            h, v = self.cross_layer(f"x_layers.{n}", h, v)
        return h[0]


@pytest.mark.parametrize("cls", ["pooler", "raw"])
def test_lxmert4hashtag(cls: str) -> None:
    sizes = {"language_layers": 2, "relation_layers": 1, "cross_layers": 2, "hidden": 16, "heads": 4}
    subject = make("lxmert4hashtag", cls=cls, dropout=0.0, head_dropout=P, **sizes)

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        transformer = Transformer(w, heads=4)
        states = []
        for b in range(len(batch)):
            ids = array(batch.token_ids_BT)[b][array(batch.token_mask_BT)[b]]
            words = w["lxmert.embeddings.word_embeddings.weight"][ids]
            words = words if len(ids) else w["absent_caption_D"][None]
            features, boxes = array(batch.image_grid_BRD)[b], array(batch.boxes_BR4)[b]
            if not IMAGE[b]:
                features, boxes = w["absent_region_D"][None], np.array([[0.0, 0.0, 1.0, 1.0]])
            states.append(transformer.cls(words, features, boxes))
        state = np.array(states)
        state = np.tanh(w.linear("lxmert.pooler.dense", state)) if cls == "pooler" else state
        head = w.drop(w.layer_norm("head.2", gelu(w.linear("head.0", state))), P)
        return each(w, w.linear("head.4", head), targets)

    check_whole(subject, forward)


def test_lxmert4hashtag_drops_out_as_lxmert_does() -> None:
    model: Any = make("lxmert4hashtag", dropout=0.3).model
    config = model.lxmert.config
    assert isinstance(config, LxmertConfig)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.3, 0.3)
    dropouts = {name: part.p for name, part in model.named_modules() if isinstance(part, torch.nn.Dropout)}
    assert {p for name, p in dropouts.items() if name.startswith("lxmert.")} == {0.3}
    assert dropouts["head.3"] == 0.0
