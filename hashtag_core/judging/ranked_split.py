"""What came back of a split, chunk by chunk, put together by row; and the figures of it."""

from collections import Counter

import numpy as np

from hashtag_core.config import Recipe
from hashtag_core.errors import HashtagError
from hashtag_core.evaluation.ground_truth import Ranked, Truth, slices_of
from hashtag_core.evaluation.metrics import PROTOCOLS, Judged, bleu, index_metrics, judge
from hashtag_core.evaluation.report import main_k
from hashtag_core.evaluation.report_record import ModelRecord, ThresholdedRecord
from hashtag_core.evaluation.score_curves import PairCalibration
from hashtag_core.evaluation.significance import intervals
from hashtag_core.evaluation.slices import slice_metrics, tag_slices
from hashtag_core.judging.page import learning, score_figures
from hashtag_core.judging.rank_split import RankedChunk
from hashtag_core.recommend.described import DescribedModel
from hashtag_core.tracking.registry import ResolvedModel

DEFAULT_BLEU_K = 5


class RankedSplit:
    """The lists of a split, in the ids of `truth`, which grow by those of the model's `tags` that they lack."""

    def __init__(self, truth: Truth, tags: list[str], top_k: int) -> None:
        self.truth, self.top_k = truth, top_k
        self._ids_V = np.array([truth.ids.setdefault(tag, len(truth.ids)) for tag in tags], dtype=np.int64)
        self._chunks: dict[int, RankedChunk] = {}

    def take(self, chunk: RankedChunk) -> None:
        """Put a chunk where it belongs; they may come in any order."""
        self._chunks[chunk.start] = chunk

    @property
    def chunks(self) -> list[RankedChunk]:
        """In the order of the split. HashtagError where one is missing: its rows would be another post's."""
        ordered = [self._chunks[start] for start in sorted(self._chunks)]
        at = 0
        for chunk in ordered:
            if chunk.start != at:
                break
            at += len(chunk.statuses)
        if at != len(self.truth.tags):
            raise HashtagError(f"{self.truth.split}: {len(self.truth.tags)} posts expected, lists of {at} came back")
        return ordered

    @property
    def ranked(self) -> Ranked:
        """All lists, judged."""
        chunks, width = self.chunks, self.top_k
        lists_NK = np.concatenate([chunk.indices_NK for chunk in chunks])
        lists_NK = self._ids_V[lists_NK] if len(self._ids_V) else lists_NK
        scores_NK = np.concatenate([chunk.scores_NK for chunk in chunks])
        return Ranked(
            judge(lists_NK, self.truth.tags, len(self.truth.dataset.vocabulary)).widened(width),
            np.pad(scores_NK, ((0, 0), (0, width - scores_NK.shape[1]))),
            np.concatenate([chunk.has_image for chunk in chunks]),
            [status for chunk in chunks for status in chunk.statuses],
        )

    @property
    def looks(self) -> dict[int, str]:
        """Row -> digits, of the posts that were asked for."""
        return {row: digits for chunk in self.chunks for row, digits in chunk.looks.items()}

    @property
    def pairs(self) -> PairCalibration:
        """Over all posts."""
        merged = PairCalibration()
        for chunk in self.chunks:
            merged.merge(chunk.pairs)
        return merged


def model_record(
    split: RankedSplit,
    ranked: Ranked,
    resolved: ResolvedModel,
    model: DescribedModel,
    thresholded: ThresholdedRecord,
    recipe: Recipe,
) -> ModelRecord:
    """What a report holds of a model whose lists are `ranked`, those of `split`; `seconds` is left 0.

    `posts_per_second` is of one process that ranks, from rows to lists.
    """
    truth, settings, judged, chunks = split.truth, recipe.evaluation, ranked.judged, split.chunks
    vocabulary = truth.dataset.vocabulary
    shares = vocabulary.counts / max(vocabulary.posts, 1)
    figures = {protocol: index_metrics(judged, settings.ks, protocol, truth.users, shares) for protocol in PROTOCOLS}
    bleu_scores = _bleu(model, judged, truth)
    figures["headline"] |= {name: value for name, value in bleu_scores.items() if name != "k"}
    scores = score_figures(ranked, truth, main_k(settings.ks))
    masks = slices_of(truth, ranked.has_image, recipe.history.order)
    seconds = max(sum(chunk.seconds for chunk in chunks), 1e-6)
    return {
        "model": resolved.uri,
        "name": resolved.name,
        "version": resolved.version,
        "family": model.family.name,
        "options": model.options.model_dump(mode="json"),
        "k": model.info.get("k"),
        "diversity": recipe.recommend.diversity,
        "history": model.history.as_record() if model.history else None,
        "posts_per_second": round(len(truth.tags) / seconds, 1),
        "megabytes": sum(path.stat().st_size for path in model.folder.iterdir()) / 1e6,
        "parameters": chunks[0].parameters,
        "metrics": figures["headline"],
        "papers": figures["papers"],
        "floor": figures["floor"],
        "bleu": bleu_scores,
        "intervals": intervals(judged, truth.users, settings.ks, settings.bootstrap_samples, settings.seed),
        "slices": slice_metrics(judged, masks, settings.ks, "headline"),
        "tags": tag_slices(judged, truth.tags, vocabulary.counts, settings.ks),
        "thresholded": thresholded,
        **scores,
        "calibration_error": {"first": scores["calibration"]["error"], "all": split.pairs.error},
        "learning": learning(resolved),
        "statuses": dict(Counter(ranked.statuses)),
        "seconds": 0.0,
        "trained_on": model.info.get("dataset", {}).get("content_hash"),
    }


def _bleu(model: DescribedModel, judged: Judged, truth: Truth) -> dict[str, float]:
    """BLEU of a sequence family's first k tags, else nothing."""
    if getattr(model.family, "objective", None) != "sequence":
        return {}
    k = int(model.info.get("k") or DEFAULT_BLEU_K)
    names = [str(number) for number in range(len(truth.ids))]
    ours = [[names[tag] for tag in row if tag >= 0] for row in judged.widened(k).ranked_NK.tolist()]
    return {**bleu(ours, [[names[tag] for tag in tags] for tags in truth.tags]), "k": k}
