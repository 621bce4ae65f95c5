"""Latent Dirichlet allocation for families that read a topic vector: scikit-learn fits it, a few lines of torch apply it.

M. D. Hoffman, D. M. Blei, F. Bach: Online Learning for Latent Dirichlet Allocation, NIPS 2010. The fitted model is one
buffer, so it is saved, sent to every worker and put on a device like any weight, and inference needs no scikit-learn.
"""

import numpy as np
import torch
from torch import Tensor, nn

from hashtag_core.models.base import FitSource

BATCH_POSTS = 256
INFERENCE_STEPS = 100
INFERENCE_TOLERANCE = 1e-3
"""Both as scikit-learn's defaults: steps of variational inference, and the mean change of gamma at which it stops."""


class TopicModel(nn.Module):
    """Token ids -> theta, each caption's mixture of K topics."""

    words_KW: Tensor

    def __init__(self, topics: int, words: int) -> None:
        super().__init__()
        self.register_buffer("words_KW", torch.full((topics, words), 1.0 / words))
        """exp(E[log beta]): how readily a topic gives a word. A word that no topic gives is not read."""

    def fit(self, source: FitSource, *, seed: int, passes: int, max_share: float) -> None:
        """Online variational Bayes over the captions of the train split.

        Words in more than `max_share` of the captions are left out: they say nothing of a topic. With no word left
        nothing is fitted, and theta stays uniform.
        """
        topics, words = self.words_KW.shape
        carrying_W, captions = np.zeros(words, dtype=np.int64), 0
        for counts in _counts(source, words):
            carrying_W += np.asarray((counts > 0).sum(0)).ravel()
            captions += counts.shape[0]
        kept = np.flatnonzero((carrying_W > 0) & (carrying_W <= max(1.0, max_share * captions)))
        if not len(kept):
            return
        from scipy.special import psi  # here: scikit-learn takes two seconds to import
        from sklearn.decomposition import LatentDirichletAllocation

        model = LatentDirichletAllocation(topics, total_samples=captions, random_state=seed)
        for _ in range(passes):
            for counts in _counts(source, words):
                model.partial_fit(counts[:, kept])
        log_words = psi(model.components_) - psi(model.components_.sum(1, keepdims=True))
        fitted_KW = np.zeros((topics, words), dtype=np.float32)
        fitted_KW[:, kept] = np.exp(log_words)
        self.words_KW.copy_(torch.from_numpy(fitted_KW))

    @torch.no_grad()
    def forward(self, token_ids_BT: Tensor, token_mask_BT: Tensor) -> Tensor:
        """theta_BK, rows summing to 1, in float32; uniform for a caption without a word that was fitted.

        The variational E-step: phi_tk ~ exp(E[log theta_k]) beta_k,w(t), gamma_k = 1/K + sum_t phi_tk.
        """
        topics = len(self.words_KW)
        smallest = torch.finfo(torch.float32).eps
        with torch.autocast(token_ids_BT.device.type, enabled=False):
            beta_BTK = self.words_KW.t()[token_ids_BT] * token_mask_BT[..., None]
            gamma_BK = beta_BTK.new_ones(len(token_ids_BT), topics)
            moving_B = token_mask_BT.any(1)
            for _ in range(INFERENCE_STEPS):
                if not moving_B.any():
                    break
                share_BK = torch.exp(torch.digamma(gamma_BK) - torch.digamma(gamma_BK.sum(1, keepdim=True)))
                normal_BT = torch.einsum("btk,bk->bt", beta_BTK, share_BK) + smallest
                next_BK = 1 / topics + share_BK * torch.einsum("btk,bt->bk", beta_BTK, 1 / normal_BT)
                change_B = (next_BK - gamma_BK).abs().mean(1)
                gamma_BK = torch.where(moving_B[:, None], next_BK, gamma_BK)
                moving_B = moving_B & (change_B >= INFERENCE_TOLERANCE)
            return gamma_BK / gamma_BK.sum(1, keepdim=True)


def _counts(source: FitSource, words: int):  # type: ignore[no-untyped-def]
    """Bags of words [captions, words] of the posts that have a caption, a batch at a time."""
    from scipy.sparse import coo_matrix, csr_matrix

    for batch, _ in source.batches(BATCH_POSTS):
        if batch.token_ids_BT is None or batch.token_mask_BT is None:
            return
        mask_BT = batch.token_mask_BT[batch.token_mask_BT.any(1)].numpy()
        ids_BT = batch.token_ids_BT[batch.token_mask_BT.any(1)].numpy()
        if len(ids_BT):
            rows, _ = np.nonzero(mask_BT)
            ones = np.ones(len(rows), dtype=np.float64)
            yield csr_matrix(coo_matrix((ones, (rows, ids_BT[mask_BT])), shape=(len(ids_BT), words)))
