"""Regression kriging: what the post shows and says, corrected by what its user did with posts like it.

Ours. Regression kriging (Odeh, McBratney & Chittleborough 1995; Hengl et al. 2007) predicts by a regression and adds the
kriged residuals of the places around. Here the regression is ridge on frozen text and image vectors, and the places are
the user's other posts H (`kriging`): r_h = y_h - f(x_h). Four more kinds of evidence stand beside it:

    s_v = f_v(x)  +  sum_h w_h (y_hv - f_v(x_h))        w: kriging weights of the history
        + sum_h a_h y_hv                                a = softmax(cos(x, x_h) / tau_history)
        + sum_h y_hv / (|H| + 1)                        how often the user takes the tag at all
        + sum_n b_n y_nv                                b = softmax(cos(x, x_n) / tau_neighbour), n: posts of other users
        + cos(text of x, the tag's words)               and the tag's popularity

Every kind has a weight that depends on the post (how long its history is, how near the nearest post of it, which
modalities are there: the gate that article 002 leaves as future work; articles by number: docs/models.md), linear in those facts, so that all weights are one
convex logistic regression, learned from out-of-fold evidence (folds by user) on every pair of post and tag. The score is
its probability; as its logit is a sum, `explain` says exactly how much came from where.

A tag that is known by its words alone (`add_tags`) takes the regression and the neighbours of the tags that say something
like it, and is mixed by weights of its own: learned from the train tags, each as if it alone were not among them.

As every kind is linear in the tags of posts, a post is scored by one product with the regression's weights: f of the
kriged residuals is f of the kriged inputs, sum_h w_h f(x_h) = f(sum_h w_h x_h).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hashtag_core.data.batches import HistoryBatch, PostBatch
from hashtag_core.models.base import FitSource, FittedModel, InputSpec, ModelOptions
from hashtag_core.models.explanation import Explanation, carried
from hashtag_core.models.kriging import Covariance, joint_cosines, joint_unit, kriging_weights
from hashtag_core.models.layers import masked_softmax
from hashtag_core.models.registry import register
from hashtag_core.models.regression_kriging_fit import Fitting, Shown, calibrate
from hashtag_core.models.ridge import BLOCKS, Block, Columns
from hashtag_core.models.similar_posts import Neighbours, owners
from hashtag_core.models.tag_words import shares_of_new

Part = Literal["kriging", "attention", "habit", "neighbours", "tag_text"]
KINDS = (*BLOCKS, "kriging", "attention", "habit", "neighbours", "tag_text", "popularity")
"""Kinds of evidence, in the order of the mixture."""
FACTS = 8
"""J: 1, whether there is a history, its length, its nearest post, what it explains, caption, image, nearest neighbour."""


class RegressionKrigingOptions(ModelOptions):
    history_posts: int = Field(50, ge=1)
    """Posts of the user that are read, newest first."""
    parts: list[Part] = ["kriging", "attention", "habit", "neighbours", "tag_text"]
    """Kinds of evidence beside the regression and the popularity."""
    gated: bool = True
    """Whether the kinds' weights depend on the post; else each has one weight."""
    penalties: list[float] = Field([0.3, 1.0, 3.0, 10.0], min_length=1)
    """Ridge penalties to choose from."""
    image_weights: list[float] = Field([0.5, 1.0], min_length=1)
    """Lengths of the image block beside a text block of length 1, to choose from."""
    constants: list[float] = Field([0.05, 0.3], min_length=1)
    """What a user's posts share whatever they show, beside 1 for what look-alikes share, to choose from."""
    lengths: list[float] = Field([0.15, 0.3, 0.6], min_length=1)
    """Lengths of the covariance in cosines, to choose from."""
    noises: list[float] = Field([0.1, 0.3, 1.0], min_length=1)
    """Variances of what no other post tells, to choose from."""
    attention_temperature: float = Field(0.1, gt=0)
    neighbours: int = Field(50, ge=1)
    neighbour_temperature: float = Field(0.05, gt=0)
    folds: int = Field(5, ge=2)
    search_posts: int = Field(4_000, ge=1)
    """Posts that penalty and covariance are chosen by and the mixture is learned from, at most."""
    penalty: float = Field(50.0, ge=0)
    tag_penalty: float = Field(20.0, ge=0)
    """Of the mixture and of its single tags' offsets; see `mixing.fit_mixture`."""


@dataclass(frozen=True)
class Reading:
    """What B posts, their histories and their neighbours are before any regression."""

    input_BD: Tensor
    words_BT: Tensor
    """Unit text vectors, zeros where there is none."""
    mask_BH: Tensor
    tags_BHL: Tensor
    past: tuple[Block, ...]
    cosine_BH: Tensor
    cosine_BHH: Tensor
    rows_BK: Tensor
    likeness_BK: Tensor
    said_B: Tensor
    seen_B: Tensor


@dataclass(frozen=True)
class Shares:
    """What each post of the history and each neighbour counts for its tags, by kind, and the facts of the post."""

    kriging_BH: Tensor
    attention_BH: Tensor
    habit_BH: Tensor
    neighbours_BK: Tensor
    facts_BJ: Tensor


@register
class RegressionKriging(FittedModel):
    name: ClassVar[str] = "regression_kriging"
    paper: ClassVar[str] = (
        "Ours: ridge regression, the user's residuals by kriging, neighbours and the tags' words, mixed by a logistic regression."
    )
    Options: ClassVar[type[ModelOptions]] = RegressionKrigingOptions
    explains: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = KINDS
    examples: ClassVar = {
        "default": {"neighbours": 4},
        "image": {"neighbours": 4, "inputs": ["image", "history"]},
        "caption": {"neighbours": 4, "inputs": ["caption", "history"]},
        "content": {"neighbours": 4, "inputs": ["image", "caption"]},
        "history": {"inputs": ["history"]},
        "regression": {"parts": [], "gated": False},
    }

    weight_DV: Tensor
    share_V: Tensor
    covariance: Tensor
    tag_text_TV: Tensor
    mixture_CJ: Tensor
    offset_J: Tensor
    tag_offset_V: Tensor
    """Of the tags that were taught: V less those that `add_tags` added."""
    new_mixture_CJ: Tensor
    new_offset_J: Tensor
    """The mixture of tags that are known by their words alone."""
    tag_shares_VU: Tensor
    """What each tag taught counts for each of those, by their words."""
    sureness: Tensor
    """Slope and offset of the logits, by the validation split."""

    def __init__(self, options: RegressionKrigingOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.settings = options
        sizes = {"caption": spec.text_dim, "image": spec.image_dim}
        self.columns = Columns({BLOCKS[name]: sizes[name] for name in BLOCKS if name in options.inputs})
        self.out_of_fold: Shown | None = None
        """From `fit` to `calibrate`."""
        self.neighbours = Neighbours(sum(self.columns.sizes.values()))
        width, tags = len(self.columns.mean_D), spec.vocabulary_size
        self.register_buffer("weight_DV", torch.zeros(width, tags))
        self.register_buffer("share_V", torch.full((tags,), 0.5))
        self.register_buffer("covariance", torch.tensor([options.constants[0], options.lengths[0], options.noises[0]]))
        self.register_buffer("tag_text_TV", torch.zeros(self.columns.sizes.get("text", 0), tags))
        self.register_buffer("mixture_CJ", torch.zeros(len(KINDS), FACTS))
        self.register_buffer("offset_J", torch.zeros(FACTS))
        self.register_buffer("tag_offset_V", torch.zeros(tags))
        self.register_buffer("new_mixture_CJ", torch.zeros(len(KINDS), FACTS))
        self.register_buffer("new_offset_J", torch.zeros(FACTS))
        self.register_buffer("tag_shares_VU", torch.zeros(tags, 0), persistent=False)
        self.register_buffer("sureness", torch.tensor([1.0, 0.0]))

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        fields = {"image": "image_vector", "caption": "text_vector", "history": "history"}
        return frozenset(fields[modality] for modality in options.inputs)

    @classmethod
    def reads_tag_text(cls, options: ModelOptions) -> bool:
        assert isinstance(options, RegressionKrigingOptions)
        return "caption" in options.inputs and "tag_text" in options.parts

    def take_tag_text(self, vectors_VD: Tensor) -> None:
        """Keep the unit vectors of the tags' words."""
        self.tag_text_TV = torch.nn.functional.normalize(vectors_VD.float(), dim=1).t().contiguous()

    def add_tags(self, vectors_UD: Tensor) -> None:
        """A new tag takes the regression and the neighbours of the tags that say something like it (kriging once more, over the
        tags' words) and its own words; histories speak for it as for any tag."""
        words_UT = torch.nn.functional.normalize(vectors_UD.float(), dim=1).to(self.tag_text_TV.device)
        taught = len(self.tag_offset_V)
        shares_VU = shares_of_new(self.tag_text_TV[:, :taught].t(), words_UT)
        unseen = self.share_V.min() * self.share_V.new_ones(len(words_UT))
        self.weight_DV = torch.cat([self.weight_DV, self.weight_DV[:, :taught] @ shares_VU], dim=1)
        self.share_V = torch.cat([self.share_V, unseen])
        self.tag_text_TV = torch.cat([self.tag_text_TV, words_UT.t()], dim=1)
        self.tag_shares_VU = torch.cat([self.tag_shares_VU, shares_VU], dim=1)
        self.spec = replace(self.spec, vocabulary_size=len(self.share_V))

    def read(self, batch: PostBatch) -> Reading:
        """Unit vectors, cosines and neighbours. What a mask calls absent is zeros here."""
        device, size = batch.image_present_B.device, len(batch)
        history = batch.history or _no_history(size, self.columns.sizes, device)
        blocks, past = self.columns.blocks(batch), self.columns.blocks(history)
        cosine_BH, cosine_BHH = joint_cosines(blocks, past, history.mask_BH)
        k = self.settings.neighbours if "neighbours" in self.settings.parts else 0
        rows_BK, likeness_BK = self.neighbours.nearest(joint_unit(blocks, (size,), device), owners(batch), k)
        return Reading(
            input_BD=self.columns.centred(blocks, (size,)),
            words_BT=blocks[0].unit() if "text" in self.columns.sizes else torch.zeros(size, 0, device=device),
            mask_BH=history.mask_BH,
            tags_BHL=history.tags_BHL.masked_fill(~history.mask_BH[..., None], -1),
            past=tuple(past),
            cosine_BH=cosine_BH,
            cosine_BHH=cosine_BHH,
            rows_BK=rows_BK.to(device),
            likeness_BK=likeness_BK.to(device),
            said_B=batch.text_present_B,
            seen_B=batch.image_present_B,
        )

    def shares(self, reading: Reading, covariance: Covariance | None = None) -> Shares:
        """The weights of the posts that speak for a post, and its facts; all are 0 where there is no post."""
        covariance = covariance or Covariance(*self.covariance.tolist())
        mask_BH, held_BK = reading.mask_BH, reading.rows_BK >= 0
        posts_B = mask_BH.sum(1).float()
        kriging_BH, explained_B = kriging_weights(reading.cosine_BH, reading.cosine_BHH, mask_BH, covariance)
        facts = [
            torch.ones_like(posts_B),
            (posts_B > 0).float(),
            torch.log1p(posts_B) / np.log1p(self.settings.history_posts),
            _greatest(reading.cosine_BH, mask_BH),
            explained_B,
            reading.said_B.float(),
            reading.seen_B.float(),
            _greatest(reading.likeness_BK, held_BK),
        ]
        facts_BJ = torch.stack(facts, dim=1)
        if not self.settings.gated:
            facts_BJ[:, 1:] = 0
        return Shares(
            kriging_BH,
            masked_softmax(reading.cosine_BH / self.settings.attention_temperature, mask_BH),
            mask_BH / (posts_B[:, None] + 1),
            masked_softmax(reading.likeness_BK / self.settings.neighbour_temperature, held_BK),
            facts_BJ,
        )

    def score(self, batch: PostBatch) -> Tensor:
        """Probability of each tag."""
        return torch.sigmoid(self.logits(batch) * self.sureness[0] + self.sureness[1])

    def calibrate(self, source: FitSource) -> dict[str, float]:
        """See `regression_kriging_fit.calibrate`."""
        return calibrate(self, source)

    def logits(self, batch: PostBatch) -> Tensor:
        """logits_BV: `evidence` and the mixture in one product, since all of it is linear in inputs and tags."""
        reading = self.read(batch)
        shares = self.shares(reading)
        taught = len(self.tag_offset_V)
        logits_BV = self._mixed(reading, shares, self.mixture_CJ, self.offset_J)
        logits_BV[:, :taught] += self.tag_offset_V
        if self.tag_shares_VU.shape[1]:
            logits_BV[:, taught:] = self._mixed(reading, shares, self.new_mixture_CJ, self.new_offset_J)[:, taught:]
        return logits_BV

    def _mixed(self, reading: Reading, shares: Shares, mixture_CJ: Tensor, offset_J: Tensor) -> Tensor:
        """The logits of all tags by one mixture, without the tags' own offsets."""
        weights_BC = shares.facts_BJ @ mixture_CJ.t()
        weight = {kind: weights_BC[:, index : index + 1] for index, kind in enumerate(KINDS)}
        spans = self.columns.spans()
        parts = [weight[kind] * reading.input_BD[:, spans[name]] for kind, name in BLOCKS.items() if name in spans]
        kriging_BH = weight["kriging"] * shares.kriging_BH
        past_BH = kriging_BH + weight["attention"] * shares.attention_BH + weight["habit"] * shares.habit_BH
        logits_BV: Tensor = (shares.facts_BJ @ offset_J)[:, None] + weight["popularity"] * torch.logit(self.share_V)
        if parts:
            input_BD = torch.cat(parts, dim=1) - self.columns.weighted(reading.past, kriging_BH)
            logits_BV = (
                logits_BV + input_BD @ self.weight_DV + (weight["tag_text"] * reading.words_BT) @ self.tag_text_TV
            )
        logits_BV = logits_BV - kriging_BH.sum(1, keepdim=True) * self.share_V
        add_to_tags(logits_BV, past_BH, reading.tags_BHL)
        votes_BV = logits_BV
        if self.tag_shares_VU.shape[1]:
            votes_BV = torch.zeros(len(logits_BV), len(self.tag_shares_VU), device=logits_BV.device)
        add_to_tags(votes_BV, weight["neighbours"] * shares.neighbours_BK, self.neighbours.tags_of(reading.rows_BK))
        if votes_BV is not logits_BV:
            logits_BV = logits_BV + torch.cat([votes_BV, votes_BV @ self.tag_shares_VU], dim=1)
        return logits_BV

    def explain(self, batch: PostBatch, tags_BT: Tensor) -> Explanation:
        """The terms of `logits`, one by one. A post of the history stands for what kriging, attention and habit take from it."""
        reading = self.read(batch)
        shares = self.shares(reading)
        slope, offset = self.sureness
        new_BT = tags_BT >= len(self.tag_offset_V)
        mixtures = ((self.mixture_CJ, self.offset_J), (self.new_mixture_CJ, self.new_offset_J))
        old_B1C, new_B1C = ((slope * (shares.facts_BJ @ mixture_CJ.t()))[:, None] for mixture_CJ, _ in mixtures)
        weights_BTC = torch.where(new_BT[:, :, None], new_B1C, old_B1C)
        weight = {kind: weights_BTC[:, :, index] for index, kind in enumerate(KINDS)}
        old_B1, new_B1 = ((shares.facts_BJ @ offset_J)[:, None] for _, offset_J in mixtures)
        weight_BTD, share_BT = self.weight_DV.t()[tags_BT], self.share_V[tags_BT]
        own_V = torch.cat([self.tag_offset_V, self.share_V.new_zeros(self.tag_shares_VU.shape[1])])
        base_BT = slope * (torch.where(new_BT, new_B1, old_B1) + own_V[tags_BT]) + offset
        parts = {
            kind: weight[kind] * torch.einsum("bd,btd->bt", reading.input_BD[:, span], weight_BTD[:, :, span])
            for kind, name in BLOCKS.items()
            for span in [self.columns.spans().get(name)]
            if span is not None
        }
        if self.reads_tag_text(self.options):
            words_BTT = self.tag_text_TV.t()[tags_BT]
            parts["tag_text"] = weight["tag_text"] * torch.einsum("bd,btd->bt", reading.words_BT, words_BTT)
        past_BHD = self.columns.centred(reading.past, reading.mask_BH.shape)
        expected_BTH = share_BT[:, :, None] + torch.einsum("bhd,btd->bth", past_BHD, weight_BTD)
        carried_BTH = carried(reading.tags_BHL, tags_BT)
        by_tag_BTH = weight["attention"][:, :, None] * shares.attention_BH[:, None]
        by_tag_BTH = by_tag_BTH + weight["habit"][:, :, None] * shares.habit_BH[:, None]
        kriging_BTH = weight["kriging"][:, :, None] * shares.kriging_BH[:, None]
        ids, rows = self.neighbours.post_ids, reading.rows_BK.tolist()
        return Explanation(
            base_BT + weight["popularity"] * torch.logit(share_BT),
            parts,
            by_tag_BTH * carried_BTH + kriging_BTH * (carried_BTH - expected_BTH),
            weight["neighbours"][:, :, None] * shares.neighbours_BK[:, None] * self._votes(reading.rows_BK, tags_BT),
            [[ids[row] for row in held if row >= 0] for held in rows],
        )

    def _votes(self, rows_BK: Tensor, tags_BT: Tensor) -> Tensor:
        """[B, T, K]: how much each neighbour speaks for each tag: 1 where it carries it; for a new tag, by the tags it carries."""
        tags_BKL, taught = self.neighbours.tags_of(rows_BK), len(self.tag_shares_VU)
        votes_BTK = carried(tags_BKL, tags_BT)
        if not self.tag_shares_VU.shape[1]:
            return votes_BTK
        column_BT = (tags_BT - taught).clamp(min=0)
        found_BTKL = torch.stack(
            [
                shares_TV[:, tags_KL.clamp(min=0)]
                for shares_TV, tags_KL in zip(self.tag_shares_VU.t()[column_BT], tags_BKL, strict=True)
            ]
        )
        new_BTK = (found_BTKL * (tags_BKL >= 0)[:, None]).sum(3)
        return torch.where((tags_BT >= taught)[:, :, None], new_BTK, votes_BTK)

    def evidence(self, reading: Reading, shares: Shares, weight_DV: Tensor) -> list[Tensor]:
        """Each of KINDS as [B, V], of the tags taught; zeros for one that is left out."""
        empty_BV = torch.zeros(len(reading.input_BD), len(self.tag_offset_V))
        spans, asked = self.columns.spans(), self.settings.parts
        found = {
            kind: reading.input_BD[:, spans[name]] @ weight_DV[spans[name]]
            for kind, name in BLOCKS.items()
            if name in spans
        }
        found["kriging"] = self.kriged(reading, shares.kriging_BH, weight_DV)
        for kind, share_BH in (("attention", shares.attention_BH), ("habit", shares.habit_BH)):
            found[kind] = add_to_tags(empty_BV.clone(), share_BH, reading.tags_BHL)
        found["neighbours"] = add_to_tags(
            empty_BV.clone(), shares.neighbours_BK, self.neighbours.tags_of(reading.rows_BK)
        )
        found["tag_text"] = reading.words_BT @ self.tag_text_TV
        found["popularity"] = torch.logit(self.share_V).expand(len(empty_BV), -1)
        kept = {*BLOCKS, "popularity", *asked}
        return [found[kind] if kind in kept and kind in found else empty_BV for kind in KINDS]

    def kriged(self, reading: Reading, kriging_BH: Tensor, weight_DV: Tensor) -> Tensor:
        """sum_h w_h (y_h - f(x_h)) of each post, [B, V]."""
        past_BD = self.columns.weighted(reading.past, kriging_BH)
        expected_BV = kriging_BH.sum(1, keepdim=True) * self.share_V + past_BD @ weight_DV
        return add_to_tags(-expected_BV, kriging_BH, reading.tags_BHL)

    def fit(self, source: FitSource, *, seed: int) -> dict[str, float]:
        """See `regression_kriging_fit`."""
        return Fitting(self, source, seed).run()

    def extra_state(self) -> dict[str, object]:
        return {"neighbours": self.neighbours.post_ids}

    def load_extra_state(self, values: dict[str, object]) -> None:
        ids = values["neighbours"]
        assert isinstance(ids, list)
        self.neighbours.post_ids = ids


def add_to_tags(values_BV: Tensor, share_BH: Tensor, tags_BHL: Tensor) -> Tensor:
    """Add each post's share to the tags that it carries, in place; -1 is no tag."""
    if tags_BHL.numel():
        added_BHL = share_BH[..., None] * (tags_BHL >= 0)
        values_BV.scatter_add_(1, tags_BHL.clamp(min=0).flatten(1), added_BHL.flatten(1))
    return values_BV


def _greatest(cosine_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """The greatest cosine of each post; 0 where there is none, or none above."""
    if not cosine_BN.shape[1]:
        return torch.zeros(len(cosine_BN), device=cosine_BN.device)
    return cosine_BN.masked_fill(~mask_BN, 0.0).amax(dim=1).clamp(min=0)


def _no_history(size: int, sizes: dict[str, int], device: torch.device) -> HistoryBatch:
    empty = torch.zeros(size, 0, dtype=torch.bool, device=device)
    fields = {f"{name}_vector_BHD": torch.zeros(size, 0, width, device=device) for name, width in sizes.items()}
    fields |= {f"{name}_present_BH": empty for name in sizes}
    return HistoryBatch(mask_BH=empty, tags_BHL=torch.full((size, 0, 1), -1, device=device), **fields)
