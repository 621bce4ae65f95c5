"""The losses for tags that few posts have, worked by hand; each family that judges each tag alone takes them all."""

import math
from typing import Any

import pytest
import torch

from hashtag_core.errors import ConfigError
from hashtag_core.models import NeuralModel, family, list_models, parse_options
from hashtag_core.models.long_tail import LongTailOptions, MultiLabelLoss
from tests.models.world import V, make, targets

FAMILIES = [name for name in list_models() if issubclass(family(name).Options, LongTailOptions)]
EACH: dict[str, dict[str, Any]] = {name: {"loss": "bce"} for name in ("co_attention", "tab_lstm", "macon")}
LOGITS = torch.tensor([[0.0, math.log(3)], [-math.log(4), math.log(9)]])  # probabilities .5 .75, .2 .9
LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def loss(counts: tuple[int, int] = (10, 1), posts: int = 100, **options: Any) -> float:
    judge = MultiLabelLoss(LongTailOptions(**options), 2)
    judge.learn_counts(torch.tensor(counts), posts)
    return float(judge(LOGITS, LABELS))


def ln(*shares: float) -> float:
    """- the sum of the logarithms, the mean of two posts."""
    return -sum(map(math.log, shares)) / 2


def test_which_families_judge_each_tag() -> None:
    of_each = [
        "co_attention",
        "design",
        "lstm_cnn",
        "lxmert4hashtag",
        "macon",
        "resnet_multilabel",
        "tab_lstm",
        "tagnet",
    ]
    assert [*of_each, "vgg_object_scene"] == FAMILIES


def test_binary_cross_entropy() -> None:
    assert loss() == pytest.approx(ln(0.5, 0.25, 0.8, 0.9))


def test_asymmetric() -> None:
    """Positives .5 and .9 to the first power of 1 - p, negatives .75 and .2 less a margin of .05, squared."""
    found = loss(tag_loss="asymmetric", focus_positive=1.0, focus_negative=2.0, negative_margin=0.05)
    positives = 0.5 * math.log(0.5) + 0.1 * math.log(0.9)
    negatives = 0.7**2 * math.log(0.3) + 0.15**2 * math.log(0.85)
    assert found == pytest.approx(-(positives + negatives) / 2, rel=1e-5)
    below = loss(tag_loss="asymmetric", focus_positive=0.0, focus_negative=1.0, negative_margin=0.8)
    assert below == pytest.approx(ln(0.5, 0.9), rel=1e-5)  # no negative is above the margin
    plain = loss(tag_loss="asymmetric", focus_positive=0.0, focus_negative=0.0, negative_margin=0.0)
    assert plain == pytest.approx(loss(), rel=1e-5)


def test_class_balanced() -> None:
    """b = 1/2: 10 posts weigh (1/2) / (1 - 2^-10), one post weighs 1; scaled to a mean of 1."""
    weights = [0.5 / (1 - 2**-10), 1.0]
    weights = [2 * weight / sum(weights) for weight in weights]
    expected = weights[0] * ln(0.5, 0.8) + weights[1] * ln(0.25, 0.9)
    assert loss(class_balance=0.5) == pytest.approx(expected, rel=1e-5)
    assert loss(counts=(7, 7), class_balance=0.999) == pytest.approx(loss(), rel=1e-5)
    assert math.isfinite(loss(counts=(0, 5), class_balance=0.9999))


def test_logit_adjustment() -> None:
    """The log-odds of (count + 1/2) / (posts + 1) are added, times t."""
    odds = [10.5 / 90.5, 1.5 / 99.5]
    p = [[3**0 * odds[0], 3 * odds[1]], [0.25 * odds[0], 9 * odds[1]]]
    p = [[x / (1 + x) for x in row] for row in p]
    assert loss(logit_adjustment=1.0) == pytest.approx(ln(p[0][0], 1 - p[0][1], 1 - p[1][0], p[1][1]), rel=1e-5)


def test_label_smoothing() -> None:
    """e = .2: .9 for a tag that a post has, .1 for one that it has not."""
    expected = 0.9 * ln(0.5, 0.25, 0.8, 0.9) + 0.1 * ln(0.5, 0.75, 0.2, 0.1)
    assert loss(label_smoothing=0.2) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_such_family_takes_them(name: str) -> None:
    """The loss changes, gradients are finite, scores of the same weights and the saved weights do not change."""
    rows = list(range(20, 28))
    counts_V = torch.arange(V, 0, -1)
    losses, scores, keys = {}, {}, {}
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "asymmetric": {"tag_loss": "asymmetric"},
        "balanced": {"class_balance": 0.99},
        "adjusted": {"logit_adjustment": 1.0},
        "smoothed": {"label_smoothing": 0.1},
    }
    for what, changes in options.items():
        subject = make(name, **EACH.get(name, {}), **changes)
        model = subject.model
        assert isinstance(model, NeuralModel)
        model.eval()
        model.learn_counts(counts_V, 64)
        found = model.loss(subject.batch(rows), targets(rows))
        found.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        losses[what], scores[what], keys[what] = (
            found.item(),
            subject.scores(subject.batch(rows)),
            set(model.state_dict()),
        )
    assert len({round(value, 4) for value in losses.values()}) == len(options)
    for what in options:
        assert torch.equal(scores[what], scores["plain"])
        assert keys[what] == keys["plain"]


def test_where_they_have_nothing_to_change() -> None:
    for name, options in (("co_attention", {}), ("macon", {"loss": "softmax"}), ("design", {"heads": "generate"})):
        with pytest.raises(ConfigError, match="label_smoothing: this is of a loss that judges each tag alone"):
            parse_options(name, {"label_smoothing": 0.1, **options})
    with pytest.raises(ConfigError, match="focus_negative is of tag_loss = 'asymmetric'"):
        parse_options("lstm_cnn", {"focus_negative": 2.0})
    saved = parse_options("co_attention", {}).model_dump()
    assert parse_options("co_attention", saved) == parse_options("co_attention", {})
