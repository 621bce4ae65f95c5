"""The mixture of `regression_kriging` with parts taken away, and with parts that were tried: all from one fit's evidence.

Shape legend: `hashtag_core.data.batches`; N posts, C kinds of evidence, J facts.

What was tried and is not in the model:

    tag correlations  article 003's tags that follow from tags before them, without an order: sum_u p_u (P(v | u) - P(v)), with p of
                      the mixture and the shares of the train posts
    selector          of retrieval, selection, generation (RIGHT, arXiv 2312.10466) the first two: the votes of the posts retrieved,
                      times how near the tag's words are to the caption. Its generator needs a pretrained language model
    votes by words    the tags of history and neighbours speak for tags whose words are like theirs (`tag_words`)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hashtag_core.data.batches import make_targets
from hashtag_core.models import create_model
from hashtag_core.models.mixing import Mixture, MixtureData, fit_mixture
from hashtag_core.models.regression_kriging import KINDS, RegressionKriging
from hashtag_core.models.regression_kriging_fit import Fitting
from hashtag_core.models.tag_words import shares_without_itself
from hashtag_core.training.loader import PostTable, TableFitSource
from tests.benchmarks.kriging_study import Study

HISTORY_FACTS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Learned:
    """What a variant may use of the posts that were learned from."""

    shares_VV: Tensor
    """See `tag_words.shares_without_itself`."""
    follows_VV: Tensor
    """P(v | u) - P(v) [u, v], 0 for a tag and itself."""
    mixture: Mixture
    """Of all parts."""


Variant = Callable[[MixtureData, Learned], MixtureData]


def part(data: MixtureData, kind: str) -> Tensor:
    return data.evidence[KINDS.index(kind)]


def without(*kinds: str, facts: tuple[int, ...] = ()) -> Variant:
    """No evidence of these kinds, and these facts 0."""

    def change(data: MixtureData, _: Learned) -> MixtureData:
        nothing_NV = torch.zeros(1, 1).expand_as(data.labels_NV)
        facts_NJ = data.facts_NJ.clone()
        facts_NJ[:, list(facts)] = 0
        evidence = [nothing_NV if kind in kinds else found for kind, found in zip(KINDS, data.evidence, strict=True)]
        return replace(data, evidence=evidence, facts_NJ=facts_NJ)

    return change


def beside(extra: Callable[[MixtureData, Learned], Tensor]) -> Variant:
    """One kind of evidence more, before the popularity."""
    return lambda data, learned: replace(data, evidence=[extra(data, learned), *data.evidence])


VARIANTS: dict[str, Variant] = {
    "all": without(),
    "one weight a part, whatever the post (no gate)": without(facts=tuple(range(1, 8))),
    **{f"without {kind}": without(kind) for kind in KINDS[:-1]},
    "without the history": without("kriging", "attention", "habit", facts=HISTORY_FACTS),
    "regression alone": without(*KINDS[2:-1], facts=tuple(range(1, 8))),
    "tried: tag correlations": beside(
        lambda data, learned: torch.sigmoid(logits(data, learned.mixture)) @ learned.follows_VV
    ),
    "tried: selector of retrieved tags": beside(
        lambda data, _: part(data, "neighbours") * part(data, "tag_text").clamp(min=0)
    ),
    "tried: history's tags by their words": beside(lambda data, learned: part(data, "attention") @ learned.shares_VV),
    "tried: neighbours' tags by their words": beside(
        lambda data, learned: part(data, "neighbours") @ learned.shares_VV
    ),
}


def logits(data: MixtureData, mixture: Mixture) -> Tensor:
    """[N, V]."""
    weights_NC = data.facts_NJ @ mixture.weights_CJ.t()
    found = (data.facts_NJ @ mixture.offset_J)[:, None] + mixture.tag_offset_V
    for index, evidence_NV in enumerate(data.evidence):
        found = found + weights_NC[:, index : index + 1] * evidence_NV
    return found


def variant_scores(study: Study, learned: PostTable, held: PostTable) -> Iterator[tuple[str, Tensor]]:
    """Of each variant, learned from some posts, the logits of others."""
    model = create_model("regression_kriging", study.job.spec, study.job.options, study.vocabulary.tags)
    assert isinstance(model, RegressionKriging)
    model.take_tag_text(study.words(study.vocabulary.tags))
    fitting = Fitting(model, TableFitSource(learned, study.job.reading()), 0)
    fitting.run()
    found = fitting._evidence()
    assert found is not None
    data, asked = found[0], evidence_of(study, model, held)
    mixture = Mixture(model.mixture_CJ, model.offset_J, model.tag_offset_V)
    known = Learned(shares_without_itself(model.tag_text_TV.t()), follows(data.labels_NV), mixture)
    for name, change in VARIANTS.items():
        changed = change(data, known)
        settings = model.settings
        fitted = fit_mixture(
            changed,
            penalty=settings.penalty,
            tag_penalty=settings.tag_penalty,
            prior_kind=len(changed.evidence) - 1,
        )
        yield name, logits(change(asked, known), fitted)


def evidence_of(study: Study, model: RegressionKriging, table: PostTable) -> MixtureData:
    """The evidence of posts that were not learned from."""
    evidence, facts = [], []
    with torch.inference_mode():
        for batch in study.batches(table):
            reading = model.read(batch)
            shares = model.shares(reading)
            evidence.append(model.evidence(reading, shares, model.weight_DV))
            facts.append(shares.facts_BJ)
    labels_NV = make_targets([list(tags) for tags in table.tags], len(study.vocabulary)).labels_BV
    together = [torch.cat(parts) for parts in zip(*evidence, strict=True)]
    return MixtureData(together, torch.cat(facts), labels_NV, torch.ones(len(labels_NV)))


def follows(labels_NV: Tensor) -> Tensor:
    """[u, v]: P(v | u) - P(v), each count with a pseudo-count of one post of the mean kind; 0 for a tag and itself."""
    share_V = labels_NV.mean(0)
    together_VV = labels_NV.t() @ labels_NV
    given_VV = (together_VV + share_V) / (labels_NV.sum(0)[:, None] + 1)
    return (given_VV - share_V).fill_diagonal_(0.0)
