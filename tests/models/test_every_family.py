"""What every family must do, whatever it is. A family that registers itself is tested here on each of its `examples`."""

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch

from hashtag_core.data.batches import FEATURES, make_targets
from hashtag_core.errors import ConfigError
from hashtag_core.models import FittedModel, NeuralModel, create_model, family, list_models, parse_options
from hashtag_core.models.folder import load_model_folder, save_model_folder
from hashtag_core.models.objectives import prior_logits
from tests.models.world import VOCABULARY, Subject, TrainPosts, V, cases, make, spoiled, targets, world

ROWS = list(range(20, 32))
IMAGE = [True, True, False, False] * 3
CAPTION = [True, False, True, False] * 3

every_example = pytest.mark.parametrize(
    ("name", "example"), [pytest.param(*case, id="-".join(case)) for case in cases()]
)
neural_examples = pytest.mark.parametrize(
    ("name", "example"),
    [pytest.param(*case, id="-".join(case)) for case in cases() if issubclass(family(case[0]), NeuralModel)],
)
fitted_examples = pytest.mark.parametrize(
    ("name", "example"),
    [pytest.param(*case, id="-".join(case)) for case in cases() if issubclass(family(case[0]), FittedModel)],
)
every_family = pytest.mark.parametrize("name", list_models())


def neural(subject: Subject) -> NeuralModel:
    assert isinstance(subject.model, NeuralModel)
    return subject.model


def assert_scores(scores: torch.Tensor, rows: int) -> None:
    assert scores.shape == (rows, V)
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert scores.min() >= 0
    assert scores.max() <= 1


@every_family
def test_says_what_it_is(name: str) -> None:
    cls = family(name)
    assert cls.name == name
    assert len(cls.paper) > 20
    assert issubclass(cls, NeuralModel) != issubclass(cls, FittedModel)
    assert "default" in cls.examples
    options = parse_options(name, {})
    assert cls.needs(options) <= set(FEATURES)
    assert ("tokens" in cls.needs(options)) == (cls.tokenizer(options) is not None)
    if issubclass(cls, NeuralModel):
        assert cls.objective in ("multi_label", "softmax", "sequence", "hybrid", "metric")


@every_family
def test_refuses_an_unknown_option(name: str) -> None:
    with pytest.raises(ConfigError, match=r"inputz.*did you mean 'inputs'"):
        parse_options(name, {"inputz": ["image"]})
    with pytest.raises(ConfigError, match="inputs"):
        parse_options(name, {"inputs": []})


@every_example
def test_scores_are_numbers_between_0_and_1(name: str, example: str) -> None:
    subject = make(name, example).fitted()
    assert_scores(subject.scores(subject.batch(ROWS)), len(ROWS))
    assert_scores(subject.scores(subject.batch(ROWS[:1])), 1)


@every_example
@pytest.mark.parametrize("present", list(itertools.product([True, False], repeat=3)))
def test_any_modality_may_be_missing(name: str, example: str, present: tuple[bool, bool, bool]) -> None:
    subject = make(name, example).fitted()
    image, caption, history = present
    batch = subject.batch(ROWS, [image] * len(ROWS), [caption] * len(ROWS), history)
    assert_scores(subject.scores(batch), len(ROWS))
    if isinstance(subject.model, NeuralModel):
        subject.model.train()
        loss = subject.model.loss(batch, targets(ROWS))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in subject.model.parameters() if p.grad is not None)


@every_family
def test_any_modality_may_be_switched_off(name: str) -> None:
    for modality in sorted(family(name).Options.reads):
        subject = make(name, inputs=[modality]).fitted()
        assert_scores(subject.scores(subject.batch(ROWS, IMAGE, CAPTION)), len(ROWS))


@every_example
def test_reads_nothing_that_is_absent(name: str, example: str) -> None:
    """Padding, and rows of an absent modality, are noise here: neither their content nor their width may matter."""
    subject = make(name, example).fitted()
    batch = subject.batch(ROWS, IMAGE, CAPTION)
    clean = subject.scores(batch)
    torch.testing.assert_close(subject.scores(spoiled(batch, subject)), clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(subject.scores(spoiled(batch, subject, extra=3)), clean, rtol=1e-4, atol=1e-5)


@every_example
def test_a_post_is_scored_alike_in_any_batch(name: str, example: str) -> None:
    subject = make(name, example).fitted()
    together = subject.scores(subject.batch(ROWS, IMAGE, CAPTION))
    alone = [
        subject.scores(subject.batch([row], [image], [caption]))
        for row, image, caption in zip(ROWS, IMAGE, CAPTION, strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


@every_example
def test_scoring_changes_nothing(name: str, example: str) -> None:
    """Nor does it depend on what the model was taught in between: no target finds its way into a score."""
    subject = make(name, example).fitted()
    before = copy.deepcopy(subject.model.state_dict())
    batch = subject.batch(ROWS, IMAGE, CAPTION)
    first = subject.scores(batch)
    if isinstance(subject.model, NeuralModel):
        with torch.no_grad():
            subject.model.loss(batch, make_targets([[0]] * len(ROWS), V))
    assert torch.equal(subject.scores(batch), first)
    for key, value in subject.model.state_dict().items():
        assert torch.equal(value, before[key]), key


@every_example
def test_a_saved_model_scores_the_same(name: str, example: str, tmp_path: Path) -> None:
    subject = make(name, example).fitted()
    batch = subject.batch(ROWS, IMAGE, CAPTION)
    expected = subject.scores(batch)
    info = {"name": "toy", "metrics": {"f1_at_5": 0.25}}
    version = save_model_folder(tmp_path, subject.model, subject.options, VOCABULARY, subject.tokenizer, info)
    loaded = load_model_folder(tmp_path)
    assert (loaded.family, loaded.version, loaded.spec, loaded.options) == (
        name,
        version,
        subject.spec,
        subject.options,
    )
    assert loaded.info == info
    assert loaded.vocabulary.tags == VOCABULARY.tags
    assert not loaded.model.training
    again = Subject(loaded.model, loaded.options, loaded.spec, loaded.tokenizer)
    assert torch.equal(again.scores(again.batch(ROWS, IMAGE, CAPTION)), expected)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}


@every_example
def test_the_seed_decides(name: str, example: str) -> None:
    first, second = make(name, example, seed=3), make(name, example, seed=3)
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
    if isinstance(first.model, NeuralModel):
        for subject in (first, second):
            train(subject, ROWS, steps=2)
    rows = subject_scores(first), subject_scores(second)
    assert torch.equal(*rows)


def subject_scores(subject: Subject) -> torch.Tensor:
    return subject.fitted().scores(subject.batch(ROWS))


@neural_examples
def test_bfloat16_gives_nearly_the_same_scores(name: str, example: str) -> None:
    subject = make(name, example)
    batch = subject.batch(ROWS, IMAGE, CAPTION)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = subject.scores(batch)
        subject.model.train()
        loss = neural(subject).loss(batch, targets(ROWS))
    loss.backward()
    assert torch.isfinite(loss)
    assert_scores(scores, len(ROWS))
    # An untrained decoder gives every tag about 1 / V, and takes another of two that are all but tied.
    torch.testing.assert_close(scores, subject.scores(batch), rtol=0.2, atol=1 / V)


@neural_examples
def test_the_loss_is_a_mean_over_posts(name: str, example: str) -> None:
    """Twice the same posts: the same loss."""
    subject = make(name, example)
    subject.model.eval()
    if any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in subject.model.modules()):
        pytest.skip("batch statistics make posts depend on each other in training")
    with torch.no_grad():
        once = neural(subject).loss(subject.batch(ROWS), targets(ROWS))
        twice = neural(subject).loss(subject.batch(ROWS * 2), targets(ROWS * 2))
    assert once.ndim == 0
    assert math.isfinite(once)
    torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-5)


@neural_examples
@pytest.mark.parametrize("tags", [[], list(range(V)), [V - 1]], ids=["none", "all", "one"])
def test_posts_with_no_tag_and_posts_with_all(name: str, example: str, tags: list[int]) -> None:
    subject = make(name, example)
    subject.model.train()
    loss = neural(subject).loss(subject.batch(ROWS), make_targets([tags] * len(ROWS), V, max_tags=5))
    assert torch.isfinite(loss)
    if loss.requires_grad:
        loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in subject.model.parameters() if p.grad is not None)


@neural_examples
def test_gradients_reach_every_parameter(name: str, example: str) -> None:
    subject = make(name, example)
    model = neural(subject).train()
    for seed in range(4):
        torch.manual_seed(seed)
        rows = ROWS + list(range(seed, seed + 8))
        batch = subject.batch(rows, [*IMAGE, *[True] * 8], [*CAPTION, *[True] * 8], history=seed % 2 == 0)
        model(batch, targets(rows)).backward()
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    still = [key for key, value in trained.items() if value.grad is None or not value.grad.any()]
    assert not still
    assert model.pretrained_parameters() <= {key for key, _ in model.named_parameters()}


WITHOUT_PRIOR = {("tweet_embedding", ""), ("okboomer", "subwords"), ("amnn", "")}
"""Families and examples that have no bias a tag: similarities, pieces of tags, eq. 18 of article 003 as printed."""


@neural_examples
def test_begins_with_how_often_tags_are_used(name: str, example: str) -> None:
    """With nothing to tell posts apart all are given the most used tags."""
    subject = make(name, example)
    model = neural(subject)
    if not model.outputs():
        assert {(name, ""), (name, example)} & WITHOUT_PRIOR
        return
    counts_V = torch.tensor([3, 9, 0, 14, 5, 30, 1, 2, 21, 7, 11, 4])
    model.begin_with(counts_V, 40)
    for layer, _ in model.outputs():
        torch.nn.init.zeros_(layer.weight)
    ranked = subject.scores(subject.batch(ROWS)).argsort(dim=1, descending=True)
    assert (ranked == counts_V.argsort(descending=True)).all()


def test_prior_logits_by_hand() -> None:
    counts_V = torch.tensor([3, 0])
    each_V = prior_logits("each", counts_V, 4)
    assert torch.sigmoid(each_V).tolist() == pytest.approx([3.5 / 5, 0.5 / 5])
    assert torch.softmax(prior_logits("one", counts_V, 4), 0).tolist() == pytest.approx([3.5 / 4, 0.5 / 4])
    next_U = torch.softmax(prior_logits("next", counts_V, 4), 0)
    assert next_U.tolist() == pytest.approx([4.5 / 8.5, 3.5 / 8.5, 0.5 / 8.5])
    assert torch.isfinite(prior_logits("each", torch.tensor([4]), 4)).all()


@neural_examples
def test_learns_eight_posts_by_heart(name: str, example: str) -> None:
    subject = make(name, example)
    rows = [row for row in range(20) if world().tags[row]][:8]
    truth = targets(rows).labels_BV
    sizes = truth.sum(1).int().tolist()
    right = 0.0
    for _ in range(12):
        train(subject, rows, steps=50)
        ranked = subject.scores(subject.batch(rows)).argsort(dim=1, descending=True)
        right = sum(float(truth[b, ranked[b, :k]].sum()) for b, k in enumerate(sizes)) / sum(sizes)
        if right == 1:
            break
    assert right >= 0.9


def train(subject: Subject, rows: list[int], steps: int) -> None:
    torch.manual_seed(steps)
    model = neural(subject).train()
    batch, wanted = subject.batch(rows), targets(rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch, wanted).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@fitted_examples
def test_fitting_beats_or_equals_popularity(name: str, example: str) -> None:
    subject, floor = make(name, example), make("popularity").fitted()
    assert isinstance(subject.model, FittedModel)
    figures = subject.model.fit(TrainPosts(subject), seed=0)
    assert all(math.isfinite(value) for value in figures.values())
    rows = [row for row, tags in enumerate(world().tags) if tags]
    truth = targets(rows).labels_BV.bool()

    def first_hits(of: Subject) -> float:
        best = of.scores(of.batch(rows)).argmax(dim=1, keepdim=True)
        return float(truth.gather(1, best).float().mean())

    assert first_hits(subject) >= first_hits(floor)


@fitted_examples
def test_fitting_survives_a_single_post(name: str, example: str) -> None:
    class OnePost(TrainPosts):
        posts = 1

        def batches(self, batch_size: int):  # type: ignore[no-untyped-def]
            yield self.subject.batch([1], [False], [False], history=False), [[]]

    subject = make(name, example)
    assert isinstance(subject.model, FittedModel)
    subject.model.fit(OnePost(subject), seed=0)
    assert_scores(subject.scores(subject.batch(ROWS, IMAGE, CAPTION)), len(ROWS))


@every_family
def test_an_untrained_model_is_made_by_name(name: str) -> None:
    subject = make(name)
    assert type(create_model(name, subject.spec, dict(family(name).examples["default"]))) is type(subject.model)
