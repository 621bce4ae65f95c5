"""The families that read the user's earlier posts: whole forward pass, loss and scores against NumPy."""

from typing import Any

import numpy as np
import pytest
import torch

from hashtag_core.data.batches import HistoryBatch, PostBatch, Targets, make_targets
from tests.models.oracle import (
    CAPTION,
    IMAGE,
    ROWS,
    TAGS,
    Array,
    Layers,
    array,
    bce,
    check_whole,
    one_softmax,
    predictable_dropout,
    relu,
    sigmoid,
    softmax,
    vivid,
    written,
    written_loss,
    written_scores,
)
from tests.models.world import POSTS, TrainPosts, V, history_of, make, world

P = 0.4
STEPS = 4


def items(w: Layers, name: str, parts: Array) -> Array:
    """tanh(W LayerNorm(x) + b) of each part, or the one learned part where there is none."""
    if not len(parts) or f"{name}.read.1.weight" not in w.w:
        return w[f"{name}.absent_D"][None]
    return np.tanh(w.linear(f"{name}.read.1", w.layer_norm(f"{name}.read.0", parts)))


def co_attended(w: Layers, words: Array, regions: Array) -> tuple[Array, Array]:
    """t and v: Lu 2016, equations 3-5; columns are words in T and regions in V."""
    t, v = items(w, "reader.words", words).T, items(w, "reader.regions", regions).T
    if "reader.weigh.score.0.weight" in w.w:  # word-level attention: shares times the number of words
        hidden = np.tanh(w.linear("reader.weigh.score.0", t.T))
        t = t * softmax(hidden @ w["reader.weigh.score.2.weight"][0]) * t.shape[1]
    c = np.tanh(t.T @ w["reader.attend.affinity.weight"].T @ v)
    keys_v, keys_t = w["reader.attend.region_key.weight"] @ v, w["reader.attend.word_key.weight"] @ t
    a_v = a_t = np.ones(1)
    if "reader.attend.region_score.weight" in w.w:
        a_v = softmax(w["reader.attend.region_score.weight"][0] @ np.tanh(keys_v + keys_t @ c))
    if "reader.attend.word_score.weight" in w.w:
        a_t = softmax(w["reader.attend.word_score.weight"][0] @ np.tanh(keys_t + keys_v @ c.T))
    return t @ a_t, v @ a_v


def read_posts(w: Layers, batch: PostBatch) -> tuple[Array, Array]:
    found = []
    for b in range(len(batch)):
        words = regions = np.zeros((0, 1))
        if batch.text_states_BSD is not None:
            words = array(batch.text_states_BSD)[b][array(batch.text_states_mask_BS)[b]]
        if batch.image_grid_BRD is not None and IMAGE[b]:
            regions = array(batch.image_grid_BRD)[b]
        found.append(co_attended(w, words, regions))
    return np.array([t for t, _ in found]), np.array([v for _, v in found])


def read_history(w: Layers, history: HistoryBatch) -> tuple[list[tuple[int, int]], Array, Array]:
    """(post, place) of every earlier post, and its t and v: one word, one region."""
    at = list(zip(*np.nonzero(array(history.mask_BH)), strict=True))
    found = []
    for b, h in at:
        words = regions = np.zeros((0, 1))
        if history.text_vector_BHD is not None and array(history.text_present_BH)[b, h]:
            words = array(history.text_vector_BHD)[b, h][None]
        if history.image_vector_BHD is not None and array(history.image_present_BH)[b, h]:
            regions = array(history.image_vector_BHD)[b, h][None]
        found.append(co_attended(w, words, regions))
    return at, np.array([t for t, _ in found]), np.array([v for _, v in found])


def habits(w: Layers, posts: Array, at: list[tuple[int, int]], past: Array, history: HistoryBatch) -> Array:
    """m = sum_h softmax_h(p^T W p_h / sqrt(D)) mean_l e(tag l of post h), posts without a known tag passed over."""
    tags = array(history.tags_BHL)
    found = []
    for b, post in enumerate(posts):
        mine = [(n, tags[b, h][tags[b, h] >= 0]) for n, (owner, h) in enumerate(at) if owner == b]
        mine = [(n, known) for n, known in mine if len(known)]
        if not mine:
            found.append(w["habit.absent_D"])
            continue
        scores = [post @ w["habit.match.weight"].T @ past[n] / np.sqrt(len(post)) for n, _ in mine]
        means = [w["habit.tags.weight"][known].mean(axis=0) for _, known in mine]
        found.append(softmax(np.array(scores)) @ np.array(means))
    return np.array(found)


@pytest.mark.parametrize("example", ["default", "bce", "image", "caption", "content"])
def test_macon(example: str) -> None:
    subject = make("macon", example, dropout=P)
    options: Any = subject.options

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        t, v = read_posts(w, batch)
        posts, habit = t + v, np.tile(w["habit.absent_D"], (len(batch), 1))
        if batch.history is not None:
            at, past_t, past_v = read_history(w, batch.history)
            habit = habits(w, posts, at, past_t + past_v, batch.history)
        logits = w.linear("classify", w.drop(np.concatenate([posts, habit], axis=1), P))
        labels = array(targets.labels_BV)
        if options.loss == "bce":
            return bce(logits, labels), sigmoid(logits)
        return one_softmax(logits, labels), softmax(logits)

    check_whole(subject, forward)


DESIGN = {
    "both": {},
    "classify, sum": {"heads": "classify", "fusion": "sum"},
    "generate": {"heads": "generate"},
    "image": {"inputs": ["image", "history"], "heads": "classify"},
    "caption": {"inputs": ["caption", "history"], "heads": "classify"},
    "content": {"inputs": ["image", "caption"], "heads": "classify"},
}


@pytest.mark.parametrize("example", DESIGN)
def test_design(example: str) -> None:
    subject = make("design", dropout=P, decode_steps=STEPS, discount=0.8, **DESIGN[example])
    options: Any = subject.options
    model: Any = subject.model
    model.merge_share.fill_(0.3)

    def fuse(w: Layers, t: Array, v: Array) -> Array:
        """The six steps of article 002."""
        if options.fusion == "sum":
            return t + v
        f = w.batch_norm("fusion.normalise", np.concatenate([t, v], axis=1))
        o = w.linear("fusion.dense", f)
        o = w.batch_norm("fusion.normalise_hidden", np.where(o > 0, o, 0.01 * o))
        share = sigmoid(w.linear("fusion.weigh", o))
        return (1 - share) * t + share * v

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        t, v = read_posts(w, batch)
        if batch.history is None:
            posts = fuse(w, t, v)
            habit = np.tile(w["habit.absent_D"], (len(batch), 1))
        else:
            at, past_t, past_v = read_history(w, batch.history)
            every = fuse(w, np.concatenate([t, past_t]), np.concatenate([v, past_v]))
            posts = every[: len(batch)]
            habit = habits(w, posts, at, every[len(batch) :], batch.history)
        whole = w.drop(np.concatenate([posts, habit], axis=1), P)
        loss, classified = 0.0, None
        if options.heads != "generate":
            logits = w.linear("classifier", whole)
            loss, classified = bce(logits, array(targets.labels_BV)), sigmoid(logits)
        if options.heads == "classify":
            return loss, classified

        def step(before: list[int] | None, h: Array) -> tuple[Array, Array]:
            table = w["generator.signs.weight"]
            sign = table[[len(table) - 1] * len(h)] if before is None else table[before]
            h = w.gru_cell("generator.cell", np.concatenate([sign, whole], axis=1), h)
            return w.linear("generator.write", w.drop(h, P)), h

        first = np.tanh(w.linear("generator.first", whole))
        loss += written_loss(step, first, TAGS)
        if w.training or classified is None:
            return loss, None if w.training else written_scores(step, first, STEPS)
        generated = np.zeros((len(batch), V))
        tags, chances, _ = written(step, first, STEPS)
        for b, row in enumerate(tags):
            generated[b, row] = [chance * 0.8**t for t, chance in enumerate(chances[b])]
        return loss, 0.7 * classified + 0.3 * generated

    check_whole(subject, forward)


def newest(history: HistoryBatch | None, row: int, most: int) -> list[int]:
    """The tags of the newest posts first."""
    if history is None:
        return []
    there, tags = array(history.mask_BH)[row], array(history.tags_BHL)[row]
    return [int(tag) for h in np.flatnonzero(there) for tag in tags[h] if tag >= 0][:most]


@pytest.mark.parametrize("example", ["default", "image", "caption", "content"])
def test_tagnet(example: str) -> None:
    subject = make("tagnet", example, dropout=P, temperature=0.4)
    options: Any = subject.options
    model: Any = subject.model
    model.prepare(TrainPosts(subject), seed=5)
    here = world().arrays
    kept = np.sort(np.random.default_rng(5).permutation(POSTS)[: options.graph_posts])
    past = history_of(range(POSTS)) if "history" in options.inputs else None

    def node(w: Layers, image: Array | None, text: Array | None, tags: list[int]) -> Array:
        def project(name: str, absent: str, x: Array | None) -> Array:
            if x is None:
                return w[absent]
            return np.tanh(w.linear(f"{name}.1", w.layer_norm(f"{name}.0", x)))

        m = np.array(
            [
                project("see", "absent_image_D", image),
                project("read", "absent_text_D", text),
                w["influence.weight"][tags].mean(axis=0) if tags else w["absent_user_D"],
            ]
        )
        q, k, message = (w.linear(name, m) for name in ("query", "key", "message"))
        m = m + softmax(q @ k.T / np.sqrt(m.shape[1])) @ message
        return relu(w.linear("node", m.reshape(-1)))

    def forward(w: Layers, batch: PostBatch, targets: Targets) -> tuple[float, Array | None]:
        sees, reads = "image" in options.inputs, "caption" in options.inputs
        graph = here["image_vector"].astype(np.float64)
        looks = graph / np.linalg.norm(graph, axis=1, keepdims=True)
        rows = []
        for b, row in enumerate(ROWS):
            image = array(batch.image_vector_BD)[b] if sees and IMAGE[b] else None
            text = array(batch.text_vector_BD)[b] if reads and CAPTION[b] else None
            x = node(w, image, text, newest(batch.history, b, options.influence_tags))
            around = w["absent_neighbours_D"]
            if image is not None:
                cosine = {n: looks[n] @ looks[row] for n in kept if world().users[n] != world().users[row]}
                near = sorted(cosine, key=lambda n: -cosine[n])[: options.neighbours]
                share = softmax(np.array([cosine[n] for n in near]) / 0.4)
                their = [
                    node(
                        w,
                        graph[n],
                        here["text_vector"][n].astype(np.float64) if reads else None,
                        newest(past, n, options.influence_tags),
                    )
                    for n in near
                ]
                around = share @ np.array(their)
            h = relu(w.linear("own", x) + w.linear("others", around))
            rows.append(np.concatenate([x, h]))
        logits = w.linear("classify", w.drop(np.array(rows), P))
        return bce(logits, array(targets.labels_BV)), sigmoid(logits)

    check_whole(subject, forward)


def test_the_order_of_the_history_counts_where_it_is_cut() -> None:
    """TAGNet reads the newest tags: another order of the same earlier posts is another influence."""
    subject = make("tagnet", influence_tags=2)
    vivid(subject.model)
    subject.model.eval()
    batch = subject.batch(ROWS, IMAGE, CAPTION)
    assert batch.history is not None
    assert newest(batch.history, 0, 2) != newest(batch.history, 0, 9)[-2:]


def test_history_moves_the_statistics_with_the_posts() -> None:
    """DESIGN's BatchNorm, in training, counts posts and earlier posts together."""
    subject = make("design", heads="classify")
    vivid(subject.model)
    batch = subject.batch(ROWS, IMAGE, CAPTION)
    w = Layers(subject.model.train(), training=True)
    with predictable_dropout(), torch.no_grad():
        subject.model.loss(batch, make_targets(TAGS, V))  # type: ignore[operator]
    assert batch.history is not None
    (t, v), (_, past_t, past_v) = read_posts(w, batch), read_history(w, batch.history)
    every = np.concatenate([np.concatenate([t, v], axis=1), np.concatenate([past_t, past_v], axis=1)])
    moved = Layers(subject.model)["fusion.normalise.running_mean"]
    np.testing.assert_allclose(moved, 0.9 * w["fusion.normalise.running_mean"] + 0.1 * every.mean(axis=0), atol=1e-6)
