"""How `regression_kriging` is fitted: a few passes over the train posts, closed forms, and one convex problem at the end.

Shape legend: `hashtag_core.data.batches`; F folds. Folds are of users, so that a series of look-alikes is never on both
sides; what the mixture learns of a post comes from the regression that has not seen its user, as it will be at tagging time.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from hashtag_core.data.batches import PostBatch, make_targets
from hashtag_core.models.base import FitSource
from hashtag_core.models.kriging import Covariance, joint_unit, kriging_weights
from hashtag_core.models.mixing import SHOWN, MixtureData, fit_mixture, fit_sureness, fit_trust
from hashtag_core.models.ridge import Moments
from hashtag_core.models.similar_posts import owners
from hashtag_core.models.tag_words import shares_without_itself

if TYPE_CHECKING:
    from hashtag_core.models.regression_kriging import Reading, RegressionKriging

R = TypeVar("R")

BATCH = 256
SEARCH_K = 5
MIXTURE_PAIRS = 8_000_000
"""Pairs of a post and a tag that the mixture is learned from, at most."""

TRAIN_POSTS = 1_000
"""As how many posts those of the train split count at most, where it is asked how sure the model may be: times change."""
OTHER_OF_NEW = ("caption", "image", "kriging", "neighbours")
"""Kinds of evidence that a tag known by its words alone has from the tags that say something like it."""


class Fitting:
    """One fit of a model on a source; `run` does it."""

    def __init__(self, model: "RegressionKriging", source: FitSource, seed: int) -> None:
        self.model, self.source, self.seed = model, source, seed
        self.settings = model.settings
        searched = min(self.settings.search_posts, max(1, MIXTURE_PAIRS // model.spec.vocabulary_size))
        self.drawn_share = searched / max(source.posts, 1)
        self.folds_FDV: list[Tensor] = []
        """Weights of the regression without each fold."""

    @torch.no_grad()
    def run(self) -> dict[str, float]:
        """Set every buffer of the model; returns figures worth logging."""
        self.look()
        figures = self.learn_regression()
        if "kriging" in self.settings.parts and "history" in self.model.options.inputs:
            figures |= self.choose_covariance()
        self.learn_mixture()
        return figures

    def look(self) -> None:
        """Means, popularity, and the posts that may be neighbours."""
        columns, tags = self.model.columns, self.model.spec.vocabulary_size
        columns.mean_D.zero_()
        sums_D, present_D = torch.zeros(len(columns.mean_D), dtype=torch.float64), torch.zeros(len(columns.mean_D))
        counts_V, posts = torch.zeros(tags), 0
        vectors, held, kept, ids = [], [], [], []
        for batch, rows in self.source.batches(BATCH):
            blocks, axes = columns.blocks(batch), (len(batch),)
            posts += len(batch)
            counts_V += make_targets(rows, tags).labels_BV.sum(0)
            sums_D += columns.centred(blocks, axes).double().sum(0)
            present_D += columns.counted(blocks, len(batch))
            vectors.append(joint_unit(blocks, axes, sums_D.device).half())
            held.append(owners(batch))
            kept += rows
            ids += batch.post_ids
        self.model.share_V = (counts_V + 0.5) / (posts + 1)
        columns.mean_D = (sums_D / present_D.clamp(min=1)).float()
        if "neighbours" in self.settings.parts and vectors:
            self.model.neighbours.keep(torch.cat(vectors), torch.cat(held), kept, ids)

    def learn_regression(self) -> dict[str, float]:
        """Set `weight_DV` and `folds_FDV`, with the penalty and the image's weight that rank best out of fold."""
        model, settings, prior_V = self.model, self.settings, self.model.share_V.numpy()
        moments = Moments(settings.folds, len(model.columns.mean_D), len(prior_V))
        sample: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for batch, labels_BV, fold_B, drawn_B in self._batches():
            rows_BD = model.columns.centred(model.columns.blocks(batch), (len(batch),)).numpy()
            moments.add(rows_BD, labels_BV - prior_V, fold_B)
            kept = drawn_B & labels_BV.any(axis=1)
            sample.append((rows_BD[kept], labels_BV[kept], fold_B[kept]))
        rows_ND, labels_NV, fold_N = (np.concatenate(column) for column in zip(*sample, strict=True))
        best: tuple[float, float, float, list[np.ndarray]] = (-1.0, 1.0, settings.penalties[0], [])
        weights = settings.image_weights if len(model.columns.sizes) > 1 else [1.0]
        for image_weight, penalty in itertools.product(weights, settings.penalties):
            scale_D = model.columns.scale(image_weight)
            folds = [moments.solve(penalty, scale_D, fold) for fold in range(settings.folds)]
            total = sum(
                (
                    _hits(rows_ND[fold_N == fold] @ folds[fold] + prior_V, labels_NV[fold_N == fold])
                    for fold in set(fold_N)
                ),
                np.zeros(3),
            )
            if _f1(total) > best[0]:
                best = _f1(total), image_weight, penalty, folds
        figure, image_weight, penalty, folds = best
        self.folds_FDV = [torch.from_numpy(weight_DV) for weight_DV in folds]
        model.weight_DV = torch.from_numpy(moments.solve(penalty, model.columns.scale(image_weight)))
        return {"image_weight": image_weight, "penalty": penalty, f"regression_f1_at_{SEARCH_K}": figure}

    def choose_covariance(self) -> dict[str, float]:
        """The covariance under which regression and kriging alone rank best, out of fold."""
        model, settings = self.model, self.settings
        grid = [Covariance(*each) for each in itertools.product(settings.constants, settings.lengths, settings.noises)]
        totals = {covariance: np.zeros(3) for covariance in grid}
        for reading, labels_NV, weight_DV, _ in self._readings():
            labelled = labels_NV.any(axis=1)
            plain_NV = reading.input_BD @ weight_DV + model.share_V
            for covariance in grid:
                weights_BH, _ = kriging_weights(reading.cosine_BH, reading.cosine_BHH, reading.mask_BH, covariance)
                values_NV = (plain_NV + model.kriged(reading, weights_BH, weight_DV)).numpy()
                totals[covariance] += _hits(values_NV[labelled], labels_NV[labelled])
        best = max(grid, key=lambda covariance: _f1(totals[covariance]))
        model.covariance = torch.tensor([best.constant, best.length, best.noise])
        return {**vars(best), f"kriged_f1_at_{SEARCH_K}": _f1(totals[best])}

    def learn_mixture(self) -> None:
        """The mixture, of evidence that is out of fold, and that of tags known by their words alone, of evidence in which every
        tag is such a one. A user counts as much as the root of the user's posts."""
        model, settings = self.model, self.settings
        kept = self._evidence()
        if kept is None:
            return
        data, as_new = kept
        prior_kind = len(data.evidence) - 1
        found = fit_mixture(data, penalty=settings.penalty, tag_penalty=settings.tag_penalty, prior_kind=prior_kind)
        model.mixture_CJ, model.offset_J, model.tag_offset_V = found.weights_CJ, found.offset_J, found.tag_offset_V
        model.out_of_fold = Shown.of(_weighted(model, data.evidence, data.facts_NJ), data.labels_NV)
        if as_new:
            nothing_NV = torch.zeros(1, 1).expand_as(data.labels_NV)
            of_new = [as_new.get(kind, part) for kind, part in zip(model.kinds, data.evidence, strict=True)]
            of_new[prior_kind] = nothing_NV
            data = dataclasses.replace(data, evidence=of_new)
            found = fit_mixture(data, penalty=settings.penalty, tag_penalty=None, prior_kind=prior_kind)
            found.weights_CJ[prior_kind] = 0
            model.new_mixture_CJ, model.new_offset_J = found.weights_CJ, found.offset_J

    def _evidence(self) -> tuple[MixtureData, dict[str, Tensor]] | None:
        """What the mixture is learned from; None without a post. Beside it the kinds of evidence that are others for a tag
        known by its words alone, with every tag taken for one."""
        model = self.model
        evidence: list[list[Tensor]] = []
        as_new: dict[str, list[Tensor]] = {}
        facts, labels, users = [], [], []
        shares_VV = shares_without_itself(model.tag_text_TV.t()) if model.reads_tag_text(model.options) else None
        for reading, labels_NV, weight_DV, owned in self._readings():
            shares = model.shares(reading)
            evidence.append(model.evidence(reading, shares, weight_DV))
            facts.append(shares.facts_BJ)
            labels.append(torch.from_numpy(labels_NV))
            users += owned
            if shares_VV is not None:
                found = dict(zip(model.kinds, model.evidence(reading, shares, weight_DV @ shares_VV), strict=True))
                found["neighbours"] = found["neighbours"] @ shares_VV
                for kind in OTHER_OF_NEW:
                    as_new.setdefault(kind, []).append(found[kind])
        if not users:
            return None
        _, user_N, posts_U = np.unique(users, return_inverse=True, return_counts=True)
        weight_N = torch.from_numpy(posts_U[user_N] ** -0.5).float()
        together = [torch.cat(parts) for parts in zip(*evidence, strict=True)]
        data = MixtureData(together, torch.cat(facts), torch.cat(labels), weight_N / weight_N.mean())
        return data, {kind: torch.cat(parts) for kind, parts in as_new.items()}

    def _batches(self) -> Iterator[tuple[PostBatch, np.ndarray, np.ndarray, np.ndarray]]:
        """Posts, labels_BV, each post's fold, and whether it is drawn for choices."""
        for batch, tags in self.source.batches(BATCH):
            users = [user or post for user, post in zip(batch.user_ids, batch.post_ids, strict=True)]
            fold_B = np.array([self._number(user) % self.settings.folds for user in users])
            drawn_B = np.array([self._number(post) / 2**32 < self.drawn_share for post in batch.post_ids])
            yield batch, make_targets(tags, self.model.spec.vocabulary_size).labels_BV.numpy(), fold_B, drawn_B

    def _readings(self) -> Iterator[tuple["Reading", np.ndarray, Tensor, list[str]]]:
        """Of the posts drawn, a fold of a batch at a time: what is read, labels_NV, the weights that have not seen them,
        and their users."""
        for batch, labels_BV, fold_B, drawn_B in self._batches():
            if not drawn_B.any():
                continue
            reading = self.model.read(batch)
            for fold in np.unique(fold_B[drawn_B]):
                rows = np.flatnonzero(drawn_B & (fold_B == fold))
                users = [batch.user_ids[row] or batch.post_ids[row] for row in rows]
                yield _picked(reading, torch.from_numpy(rows)), labels_BV[rows], self.folds_FDV[fold], users

    def _number(self, name: str) -> int:
        return zlib.crc32(f"{self.seed}:{name}".encode())


@dataclasses.dataclass(frozen=True)
class Shown:
    """The tags that posts are given first: the parts of their logits [N, K, C + 1], and which are right [N, K]."""

    parts_NKC: Tensor
    right_NK: Tensor

    @classmethod
    def of(cls, parts: Sequence[Tensor], labels_NV: Tensor) -> "Shown":
        """Of logits that are the sum of `parts` [N, V]; twice as many tags as are shown, as the order may change yet."""
        logits_NV = torch.zeros_like(labels_NV)
        for part in parts:
            logits_NV += part
        tags_NK = logits_NV.topk(min(2 * SHOWN, logits_NV.shape[1]), dim=1).indices
        parts_NKC = torch.stack([part.gather(1, tags_NK) for part in parts], dim=2)
        return cls(parts_NKC, labels_NV.gather(1, tags_NK))

    def first(self, trust_C: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the tags shown, where each part counts `trust_C` times, and which are right."""
        best_NK = (self.parts_NKC @ trust_C).topk(min(SHOWN, self.right_NK.shape[1]), dim=1)
        return best_NK.values, self.right_NK.gather(1, best_NK.indices)


def _weighted(model: "RegressionKriging", evidence: Sequence[Tensor], facts_NJ: Tensor) -> list[Tensor]:
    """The parts of the logits [N, V]: of each kind of evidence, and what is of none."""
    weights_NC = facts_NJ @ model.mixture_CJ.t()
    found = [weights_NC[:, index : index + 1] * part for index, part in enumerate(evidence)]
    return [*found, (facts_NJ @ model.offset_J)[:, None] + model.tag_offset_V]


@torch.no_grad()
def calibrate(model: "RegressionKriging", source: FitSource) -> dict[str, float]:
    """What the train posts alone cannot tell, by those of the validation split: how far each kind of evidence is to be trusted,
    then how sure the model may be of the tags that a post is given first. For that the train posts speak too, where it was
    just fitted, as they were out of fold: a validation split may have few users."""
    device = model.share_V.device
    most = max(1, MIXTURE_PAIRS // model.spec.vocabulary_size)
    every = -(-source.posts // most)
    model.cpu()
    parts: list[list[Tensor]] = []
    labels = [torch.zeros(0, model.spec.vocabulary_size)]
    for batch, tags in source.batches(BATCH):
        rows = torch.arange(0, len(batch), every)
        reading = _picked(model.read(batch), rows)
        shares = model.shares(reading)
        parts.append(_weighted(model, model.evidence(reading, shares, model.weight_DV), shares.facts_BJ))
        labels.append(make_targets(tags, model.spec.vocabulary_size).labels_BV[rows])
    if not parts:
        return {}
    together = [torch.cat(part) for part in zip(*parts, strict=True)]
    labels_NV = torch.cat(labels)
    trust_C = fit_trust(together, labels_NV)
    ones_C = torch.ones_like(trust_C)
    model.mixture_CJ = model.mixture_CJ * trust_C[:-1, None]
    model.offset_J, model.tag_offset_V = model.offset_J * trust_C[-1], model.tag_offset_V * trust_C[-1]
    model.new_mixture_CJ = model.new_mixture_CJ * trust_C[:-1, None]
    model.new_offset_J = model.new_offset_J * trust_C[-1]
    shown = [Shown.of([trust * part for trust, part in zip(trust_C, together, strict=True)], labels_NV).first(ones_C)]
    weights = [torch.ones(len(labels_NV))]
    if model.out_of_fold is not None:
        shown.append(model.out_of_fold.first(trust_C))
        weights.append(torch.full((len(shown[1][0]),), min(1.0, TRAIN_POSTS / max(len(shown[1][0]), 1))))
        model.out_of_fold = None
    logits_NK, right_NK = (torch.cat(each) for each in zip(*shown, strict=True))
    slope, offset = fit_sureness(logits_NK, right_NK, torch.cat(weights))
    model.sureness = torch.tensor([slope, offset])
    model.to(device)
    trusts = {f"trust_{kind}": float(trust) for kind, trust in zip(model.kinds, trust_C[:-1], strict=True)}
    return {**trusts, "sureness_slope": slope, "sureness_offset": offset}


def _picked(item: R, rows: Tensor) -> R:
    """Those rows of tensors, and of tuples and dataclasses of them."""
    if isinstance(item, Tensor):
        return item[rows]  # type: ignore[return-value]
    if isinstance(item, tuple):
        return tuple(_picked(each, rows) for each in item)  # type: ignore[return-value]
    values = {field.name: _picked(getattr(item, field.name), rows) for field in dataclasses.fields(item)}  # type: ignore[arg-type]
    return dataclasses.replace(item, **values)  # type: ignore[type-var]


def _hits(scores_NV: np.ndarray, labels_NV: np.ndarray) -> np.ndarray:
    """Sums over posts of precision and recall at SEARCH_K, and the number of posts."""
    k = min(SEARCH_K, scores_NV.shape[1])
    top_NK = np.argpartition(-scores_NV, k - 1, axis=1)[:, :k]
    found_N = np.take_along_axis(labels_NV, top_NK, axis=1).sum(axis=1)
    return np.array([(found_N / k).sum(), (found_N / labels_NV.sum(axis=1)).sum(), len(found_N)])


def _f1(total: np.ndarray) -> float:
    precision, recall = total[:2] / max(total[2], 1)
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0
