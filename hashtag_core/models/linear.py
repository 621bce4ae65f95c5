"""Ridge regression from frozen text and image vectors to tags, in closed form.

Ours: the floor that every neural family must beat. Each block (text, image) is scaled to unit length a post and
centred; a missing modality is the mean (zeros) beside a column that says whether it is there. The penalty and the
weight of the image block are chosen by cross-validation over users, so that a user's series of look-alikes is never on
both sides; moments are summed over batches in float64, so memory does not grow with the posts.
"""

import itertools
import zlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch
from hashtag_core.models.base import FitSource, FittedModel, InputSpec, Modality, ModelOptions
from hashtag_core.models.explanation import Explanation
from hashtag_core.models.registry import register

BATCH = 1024
SEARCH_K = 5
CALIBRATION_PAIRS = 1_000_000


class LinearOptions(ModelOptions):
    reads: ClassVar[frozenset[Modality]] = frozenset({"image", "caption"})
    penalties: list[float] = Field([0.3, 1.0, 3.0, 10.0], min_length=1)
    """Ridge penalties to choose from."""
    image_weights: list[float] = Field([0.5, 1.0], min_length=1)
    """Lengths of the image block beside a text block of length 1, to choose from."""
    folds: int = Field(3, ge=2)
    search_posts: int = Field(20_000, ge=1)
    """Held-out posts that the choice is made on, at most."""


@register
class Linear(FittedModel):
    name: ClassVar[str] = "linear"
    explains: ClassVar[bool] = True
    paper: ClassVar[str] = "Ours: ridge regression on frozen text and image vectors, in closed form."
    Options: ClassVar[type[ModelOptions]] = LinearOptions
    examples: ClassVar = {"default": {}, "image": {"inputs": ["image"]}, "caption": {"inputs": ["caption"]}}

    mean_D: Tensor
    weight_DV: Tensor
    bias_V: Tensor
    calibration: Tensor

    def __init__(self, options: LinearOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self._settings = options
        self._blocks = [
            (present, field, size)
            for modality, present, field, size in (
                ("caption", "text_present_B", "text_vector_BD", spec.text_dim),
                ("image", "image_present_B", "image_vector_BD", spec.image_dim),
            )
            if modality in options.inputs
        ]
        width = sum(size + 1 for _, _, size in self._blocks)
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("weight_DV", torch.zeros(width, spec.vocabulary_size))
        self.register_buffer("bias_V", torch.zeros(spec.vocabulary_size))
        self.register_buffer("calibration", torch.tensor([6.0, -3.0]))
        """Slope and offset of the sigmoid that makes a regression value a probability."""

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        fields = {"caption": "text_vector", "image": "image_vector"}
        return frozenset(fields[modality] for modality in options.inputs if modality in fields)

    def _columns(self, batch: PostBatch, *, centred: bool = True) -> Tensor:
        """X_BD: for each block its unit vector and whether it is there, less their train means."""
        parts: list[Tensor] = []
        start = 0
        for present_name, field, size in self._blocks:
            present_B1 = getattr(batch, present_name)[:, None]
            vector_BD = nn.functional.normalize(getattr(batch, field), dim=1)
            flag_B1 = present_B1.to(vector_BD.dtype)
            if centred:
                vector_BD = vector_BD - self.mean_D[start : start + size]
                flag_B1 = flag_B1 - self.mean_D[start + size]
            parts += [torch.where(present_B1, vector_BD, 0.0), flag_B1]
            start += size + 1
        return torch.cat(parts, dim=1) if parts else torch.zeros(len(batch), 0)

    def _solve(self, gram_DD: np.ndarray, cross_DV: np.ndarray, image_weight: float, penalty: float) -> np.ndarray:
        """weight_DV of the ridge problem whose image block is `image_weight` long, for unscaled columns."""
        import scipy.linalg  # here: only who fits needs it

        scale: list[float] = []
        for _, field, size in self._blocks:
            scale += [image_weight if field == "image_vector_BD" else 1.0] * size + [1.0]
        scale_D = np.array(scale)
        penalised_DD = gram_DD * scale_D[:, None] * scale_D
        penalised_DD[np.diag_indices_from(penalised_DD)] += penalty
        weight_DV: np.ndarray = scipy.linalg.solve(penalised_DD, cross_DV * scale_D[:, None], assume_a="pos")
        weight_DV *= scale_D[:, None]
        return weight_DV

    def fit(self, source: FitSource, *, seed: int) -> dict[str, float]:
        """Two passes (means; moments by fold, with a sample of rows), then everything in memory."""
        settings, spec = self._settings, self.spec
        folds, width, tags = settings.folds, len(self.mean_D), spec.vocabulary_size
        prior_V = self._fit_means(source)
        gram_FDD = np.zeros((folds, width, width))
        cross_FDV = np.zeros((folds, width, tags))
        sample: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        kept_share = settings.search_posts / max(source.posts, 1)
        for X_BD, Y_BV, fold_B, draw_B in self._design(source, seed):
            for fold in range(folds):
                rows = fold_B == fold
                gram_FDD[fold] += X_BD[rows].T @ X_BD[rows]
                cross_FDV[fold] += X_BD[rows].T @ (Y_BV[rows] - prior_V)
            kept = (draw_B < kept_share) & Y_BV.any(axis=1)
            sample.append((X_BD[kept].astype(np.float32), Y_BV[kept].astype(bool), fold_B[kept]))
        X_ND, Y_NV, fold_N = (np.concatenate(column) for column in zip(*sample, strict=True))
        gram_DD, cross_DV = gram_FDD.sum(0), cross_FDV.sum(0)
        weights = settings.image_weights if len(self._blocks) > 1 else [1.0]
        totals: dict[tuple[float, float], np.ndarray] = {}
        for fold, pair in itertools.product(np.unique(fold_N), itertools.product(weights, settings.penalties)):
            rows = fold_N == fold
            held_out_DV = self._solve(gram_DD - gram_FDD[fold], cross_DV - cross_FDV[fold], *pair)
            scores_NV = X_ND[rows] @ held_out_DV.astype(np.float32) + prior_V
            totals[pair] = totals.get(pair, np.zeros(3)) + _hits(scores_NV, Y_NV[rows])
        figures = {pair: _f1(total) for pair, total in totals.items()}
        best = max(figures, key=lambda pair: figures[pair]) if figures else (weights[0], settings.penalties[0])
        if len(fold_N):
            rows = np.flatnonzero(fold_N == fold_N[0])[: max(1, CALIBRATION_PAIRS // tags)]
            held_out_DV = self._solve(gram_DD - gram_FDD[fold_N[0]], cross_DV - cross_FDV[fold_N[0]], *best)
            self._calibrate(X_ND[rows] @ held_out_DV + prior_V, Y_NV[rows])
        weight_DV = self._solve(gram_DD, cross_DV, *best)
        self.weight_DV = torch.from_numpy(weight_DV.astype(np.float32))
        self.bias_V = torch.from_numpy(prior_V.astype(np.float32))
        return {
            "image_weight": best[0],
            "penalty": best[1],
            f"cross_validated_f1_at_{SEARCH_K}": figures.get(best, 0.0),
        }

    def _fit_means(self, source: FitSource) -> np.ndarray:
        """Set `mean_D` (vectors over the posts that have them, presence over all); returns each tag's share of posts."""
        sums_D, present_D = torch.zeros(len(self.mean_D), dtype=torch.float64), torch.zeros(len(self.mean_D))
        counts_V = np.zeros(self.spec.vocabulary_size)
        posts = 0
        for batch, tags in source.batches(BATCH):
            posts += len(batch)
            sums_D += self._columns(batch, centred=False).double().sum(0)
            start = 0
            for present_name, _, size in self._blocks:
                present_D[start : start + size] += getattr(batch, present_name).sum()
                start += size + 1
                present_D[start - 1] += len(batch)
            for row in tags:
                counts_V[list(set(row))] += 1
        self.mean_D = (sums_D / present_D.clamp(min=1)).float()
        return counts_V / max(posts, 1)

    def _design(self, source: FitSource, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """X_BD, labels Y_BV, the fold of each post's user, and a number in [0, 1) drawn from the post's id."""
        for batch, tags in source.batches(BATCH):
            Y_BV = np.zeros((len(batch), self.spec.vocabulary_size))
            for row, indices in enumerate(tags):
                Y_BV[row, indices] = 1.0
            users = [user or post for user, post in zip(batch.user_ids, batch.post_ids, strict=True)]
            fold_B = np.array([zlib.crc32(f"{seed}:{user}".encode()) % self._settings.folds for user in users])
            draw_B = np.array([zlib.crc32(f"{seed}:{post}".encode()) / 2**32 for post in batch.post_ids])
            yield self._columns(batch).double().numpy(), Y_BV, fold_B, draw_B

    def _calibrate(self, values_NV: np.ndarray, labels_NV: np.ndarray) -> None:
        """Platt's two numbers on held-out posts: monotone, so the ranking stays."""
        from sklearn.linear_model import LogisticRegression  # here: scikit-learn takes two seconds to import

        fitted = LogisticRegression(C=1e6).fit(values_NV.reshape(-1, 1), labels_NV.ravel())
        slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        if slope > 0:
            self.calibration = torch.tensor([slope, offset])

    def values(self, batch: PostBatch) -> Tensor:
        """values_BV of the regression, as they come."""
        return self._columns(batch) @ self.weight_DV + self.bias_V

    def score(self, batch: PostBatch) -> Tensor:
        slope, offset = self.calibration
        return torch.sigmoid(self.values(batch) * slope + offset)

    def explain(self, batch: PostBatch, tags_BT: Tensor) -> Explanation:
        """The logit is a sum over the columns: of the picture (its absence too), of the caption, and what any post is given."""
        slope, offset = self.calibration
        X_BD, start = self._columns(batch), 0
        parts_BT: dict[str, Tensor] = {}
        for _, field, size in self._blocks:
            own = slice(start, start + size + 1)
            part_BV = X_BD[:, own] @ self.weight_DV[own]
            parts_BT["image" if field == "image_vector_BD" else "caption"] = slope * part_BV.gather(1, tags_BT)
            start += size + 1
        nothing_BT0 = torch.zeros(*tags_BT.shape, 0, device=tags_BT.device)
        base_BT = slope * self.bias_V[tags_BT] + offset
        return Explanation(base_BT, parts_BT, nothing_BT0, nothing_BT0, [[] for _ in range(len(tags_BT))])


def _hits(scores_NV: np.ndarray, labels_NV: np.ndarray) -> np.ndarray:
    """Sums over posts of precision and recall at SEARCH_K, and the number of posts."""
    k = min(SEARCH_K, scores_NV.shape[1])
    top_NK = np.argpartition(-scores_NV, k - 1, axis=1)[:, :k]
    found_N = np.take_along_axis(labels_NV, top_NK, axis=1).sum(axis=1)
    return np.array([(found_N / k).sum(), (found_N / labels_NV.sum(axis=1)).sum(), len(found_N)])


def _f1(total: np.ndarray) -> float:
    precision, recall = total[:2] / max(total[2], 1)
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0
