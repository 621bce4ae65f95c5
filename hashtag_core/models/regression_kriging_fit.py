"""How `regression_kriging` is fitted: a few passes over the train posts, closed forms, and one convex problem at the end.

Shape legend: `hashtag_core.data.batches`; F folds. Folds are of users, so that a series of look-alikes is never on both
sides; what the mixture learns of a post comes from the regression that has not seen its user, as it will be at tagging time.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Iterator
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

if TYPE_CHECKING:
    from hashtag_core.models.regression_kriging import Reading, RegressionKriging

R = TypeVar("R")

BATCH = 256
SEARCH_K = 5
MIXTURE_PAIRS = 8_000_000
"""Pairs of a post and a tag that the mixture is learned from, at most."""


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
        """The mixture, of evidence that is out of fold. A user counts as much as the root of the user's posts."""
        model = self.model
        evidence: list[list[Tensor]] = []
        facts, labels, users = [], [], []
        for reading, labels_NV, weight_DV, owned in self._readings():
            shares = model.shares(reading)
            evidence.append(model.evidence(reading, shares, weight_DV))
            facts.append(shares.facts_BJ)
            labels.append(torch.from_numpy(labels_NV))
            users += owned
        if not users:
            return
        _, user_N, posts_U = np.unique(users, return_inverse=True, return_counts=True)
        weight_N = torch.from_numpy(posts_U[user_N] ** -0.5).float()
        data = MixtureData(
            [torch.cat(parts) for parts in zip(*evidence, strict=True)],
            torch.cat(facts),
            torch.cat(labels),
            weight_N / weight_N.mean(),
        )
        found = fit_mixture(
            data,
            penalty=self.settings.penalty,
            tag_penalty=self.settings.tag_penalty,
            prior_kind=len(data.evidence) - 1,
        )
        model.mixture_CJ, model.offset_J, model.tag_offset_V = found.weights_CJ, found.offset_J, found.tag_offset_V

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


@torch.no_grad()
def calibrate(model: "RegressionKriging", source: FitSource) -> dict[str, float]:
    """What the train posts cannot tell, by those of the validation split: how far each kind of evidence is to be trusted,
    then how sure the model may be of the tags that a post is given first."""
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
        weights_BC = shares.facts_BJ @ model.mixture_CJ.t()
        evidence = model.evidence(reading, shares, model.weight_DV)
        found = [weights_BC[:, index : index + 1] * part for index, part in enumerate(evidence)]
        parts.append([*found, (shares.facts_BJ @ model.offset_J)[:, None] + model.tag_offset_V])
        labels.append(make_targets(tags, model.spec.vocabulary_size).labels_BV[rows])
    if not parts:
        return {}
    together = [torch.cat(part) for part in zip(*parts, strict=True)]
    labels_NV = torch.cat(labels)
    trust_C = fit_trust(together, labels_NV)
    model.mixture_CJ = model.mixture_CJ * trust_C[:-1, None]
    model.offset_J, model.tag_offset_V = model.offset_J * trust_C[-1], model.tag_offset_V * trust_C[-1]
    logits_NV = torch.stack([trust * part for trust, part in zip(trust_C, together, strict=True)]).sum(0)
    best_NK = logits_NV.topk(min(SHOWN, logits_NV.shape[1]), dim=1)
    slope, offset = fit_sureness(best_NK.values, labels_NV.gather(1, best_NK.indices))
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
