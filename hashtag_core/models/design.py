"""DESIGN: a post fused from caption and image, the habit of its user, and tags both classified and written.

Shubhi Bansal, Kushaan Gowda, Nagendra Kumar: A Hybrid Deep Neural Network for Multimodal Personalized Hashtag
Recommendation, IEEE Transactions on Computational Social Systems 2022, https://doi.org/10.1109/TCSS.2022.3184307, with the
weighted fusion of S. Yakovlev, N. Shapoval: Recommendation of Hashtags Using Deep Learning Methods Based on Multimodal
Data (article 002, which has no numbered equations; its steps are numbered here as there).

    words    t'_s = S alpha_s t_s,   alpha = softmax_s(w tanh(W t_s + b))        word-level attention over S words
    t, v     parallel co-attention of words and regions                         see `macon`, equations 3-5
    sum      p = t + v
    weighted f = [t ; v]    f^ = BatchNorm(f)    o = LeakyReLU(Dense(f^))        1, 2, 3
             o^ = BatchNorm(o)    w = Sigmoid(Dense(o^))    p = (1 - w) t + w v  4, 5, 6; w as wide as t
    history  each earlier post by the same module; b_h = softmax_h(p^T W_m p_h / sqrt(D)); m = sum_h b_h mean_l e(tag l of post h)
    classify c_k = sigmoid(W_c [p ; m] + b),   binary cross-entropy summed over tags
    generate h_0 = tanh(W_0 [p ; m]),  h_t = GRU([e'(H_{t-1}) ; p ; m], h_{t-1}),  p(H_t) = softmax(W_g h_t + b)
    both     the sum of both losses; score_k = (1 - lambda) c_k + lambda g_k,  g_k = d^{t-1} p(H_t = k) where k is written at
             step t, 0 where it is not; lambda is chosen on validation, F1 at `merge_k`

What differs here, or is left open in 002: all sizes, S in the word attention (equal weights leave the words as they are),
the form of b, and the discount d are ours; a post's tags share its weight b_h. `ranking = "marginal"` puts the chance that
k is written at all (a tag counts less the likelier the list has ended) for g_k. An earlier post comes with one pooled
vector for each modality: one word, one region (LayerNorm brings token and pooled vector to one length), and both kinds of
posts move the statistics of BatchNorm together. A missing image, caption or history is a learned region, word or habit.
`visual` says which grid
`encoders.image` gives, `vgg16` or the base model of `vit`, and is checked by its width; null: any.

(Articles by number: docs/models.md.)
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.errors import ConfigError
from hashtag_core.models.base import FitSource, InputSpec, ModelOptions, NeuralModel
from hashtag_core.models.decoding import search
from hashtag_core.models.layers import masked_softmax
from hashtag_core.models.long_tail import LongTailOptions, MultiLabelLoss
from hashtag_core.models.macon import Habit, PostReader, history_needs
from hashtag_core.models.objectives import Output, sequence_loss
from hashtag_core.models.registry import register
from hashtag_core.models.sequence import SequenceOptions, SignEmbedding, decode_scores, teach

VISUAL_DIMS = {"vgg16": 512, "vit": 768}
MERGE_SHARES = 21
"""Values of lambda that are tried, from 0 to 1."""
MERGE_KS = 10
"""Longest list that is looked at for `merge_k = null`."""
CALIBRATION_POSTS = 256
TINY = {
    "hidden": 16,
    "attention_units": 8,
    "fusion_hidden": 12,
    "embedding": 12,
    "generator_hidden": 24,
    "dropout": 0.1,
}


class DesignOptions(SequenceOptions, LongTailOptions):
    fusion: Literal["sum", "weighted"] = "weighted"
    visual: Literal["vgg16", "vit"] | None = None
    heads: Literal["classify", "generate", "both"] = "both"
    hidden: int = Field(512, ge=1)
    """Of a word, a region, a post and the habit: D."""
    attention_units: int = Field(512, ge=1)
    """Of the word-level and of the co-attention."""
    fusion_hidden: int = Field(512, ge=1)
    """Of o."""
    history_posts: int = Field(5, ge=1)
    """Earlier posts of the user that are read, at most."""
    embedding: int = Field(256, ge=1)
    """Of a tag that the generator has written."""
    generator_hidden: int = Field(512, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    """Of [p ; m], and of the generator's output."""
    discount: float = Field(0.9, gt=0, le=1)
    """d: what each step of the generator takes off the probability of what is written."""
    merge_k: int | None = Field(5, ge=1)
    """Length of the lists whose F1 on validation chooses lambda; null: the one of 1 to 10 where it is highest, chosen with it."""


class WordAttention(nn.Module):
    """t'_s: the words, each by its share of a softmax, times their number."""

    def __init__(self, hidden: int, attention_units: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(hidden, attention_units), nn.Tanh(), nn.Linear(attention_units, 1, bias=False)
        )

    def forward(self, words_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        share_BS = masked_softmax(self.score(words_BSD).squeeze(-1), mask_BS)
        return words_BSD * (share_BS * mask_BS.sum(1, keepdim=True))[..., None]


class RowNorm(nn.BatchNorm1d):
    """BatchNorm that takes its running statistics for a batch of one row, which has no variance."""

    def forward(self, rows_BD: Tensor) -> Tensor:
        if self.training and len(rows_BD) < 2:
            return nn.functional.batch_norm(
                rows_BD, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        normed_BD: Tensor = super().forward(rows_BD)
        return normed_BD


class WeightedFusion(nn.Module):
    """Steps 1-6 of article 002."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.normalise = RowNorm(2 * size)
        self.dense = nn.Linear(2 * size, hidden)
        self.activate = nn.LeakyReLU()
        self.normalise_hidden = RowNorm(hidden)
        self.weigh = nn.Linear(hidden, size)

    def forward(self, t_BD: Tensor, v_BD: Tensor) -> Tensor:
        """p_BD."""
        f_BE = torch.cat([t_BD, v_BD], dim=1)
        o_BF = self.activate(self.dense(self.normalise(f_BE)))
        w_BD = torch.sigmoid(self.weigh(self.normalise_hidden(o_BF)))
        return (1 - w_BD) * t_BD + w_BD * v_BD


class Written(NamedTuple):
    """The generator's state between steps."""

    post_BF: Tensor
    hidden_BG: Tensor


class Generator(nn.Module):
    """The GRU that writes tags one after another."""

    def __init__(self, size: int, options: DesignOptions, vocabulary_size: int) -> None:
        super().__init__()
        hidden = options.generator_hidden
        self.first = nn.Linear(size, hidden)
        self.signs = SignEmbedding(vocabulary_size, options.embedding)
        self.cell = nn.GRUCell(options.embedding + size, hidden)
        self.dropout = nn.Dropout(options.dropout)
        self.write = nn.Linear(hidden, vocabulary_size + 1)

    def start(self, post_BF: Tensor) -> Written:
        """h_0."""
        return Written(post_BF, torch.tanh(self.first(post_BF)))

    def step(self, previous_B: Tensor | None, state: Written) -> tuple[Tensor, Written]:
        """logits_BU and the next state."""
        sign_BE = self.signs.after(previous_B, len(state.post_BF))
        hidden_BG = self.cell(torch.cat([sign_BE, state.post_BF], dim=1), state.hidden_BG)
        return self.write(self.dropout(hidden_BG)), Written(state.post_BF, hidden_BG)


@register
class Design(NeuralModel):
    name: ClassVar[str] = "design"
    paper: ClassVar[str] = (
        "DESIGN (Bansal et al. 2022) with the weighted fusion of Yakovlev & Shapoval 2024: co-attention, habit, two heads."
    )
    objective: ClassVar = "hybrid"
    Options: ClassVar[type[ModelOptions]] = DesignOptions
    examples: ClassVar = {
        "default": TINY,
        "sum": TINY | {"fusion": "sum", "ranking": "marginal"},
        "classify": TINY | {"heads": "classify"},
        "generate": TINY | {"heads": "generate", "fusion": "sum", "decoding": "beam"},
        "image": TINY | {"inputs": ["image", "history"], "heads": "classify"},
        "caption": TINY | {"inputs": ["caption", "history"], "heads": "classify"},
        "content": TINY | {"inputs": ["image", "caption"], "heads": "classify"},
    }

    merge_share: Tensor

    def __init__(self, options: DesignOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.settings = options
        expected = VISUAL_DIMS.get(options.visual or "", spec.image_dim)
        if "image" in options.inputs and spec.image_dim != expected:
            raise ConfigError(
                f"model.visual: {options.visual!r} has regions of {expected} features, encoders.image gives {spec.image_dim}"
            )
        hidden, tags = options.hidden, spec.vocabulary_size
        words = WordAttention(hidden, options.attention_units) if "caption" in options.inputs else None
        self.reader = PostReader(options, spec, hidden, options.attention_units, words)
        self.fusion = WeightedFusion(hidden, options.fusion_hidden) if options.fusion == "weighted" else None
        self.habit = Habit(hidden, tags, hidden, "history" in options.inputs)
        self.dropout = nn.Dropout(options.dropout)
        self.judge = MultiLabelLoss(options, tags)
        self.classifier = nn.Linear(2 * hidden, tags) if options.heads != "generate" else None
        self.generator = Generator(2 * hidden, options, tags) if options.heads != "classify" else None
        self.register_buffer("merge_share", torch.tensor(0.5))
        """lambda."""

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        return history_needs(options)

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        found: list[tuple[nn.Linear, Output]] = []
        if self.classifier is not None:
            found.append((self.classifier, "each"))
        if self.generator is not None:
            found.append((self.generator.write, "next"))
        return found

    def looks_at(self, batch: PostBatch) -> Tensor | None:
        """The share of each region in the co-attention of the post itself."""
        return self.reader.looks_at(batch)

    def posts(self, batch: PostBatch) -> Tensor:
        """[p ; m] as BF."""
        t_BD, v_BD = self.reader(batch)
        if batch.history is None:
            post_BD = self.fuse(t_BD, v_BD)
            return torch.cat([post_BD, self.habit(post_BD, None, None)], dim=1)
        t_ND, v_ND = self.reader.history(batch.history)
        fused = self.fuse(torch.cat([t_BD, t_ND]), torch.cat([v_BD, v_ND]))
        post_BD, past_ND = fused[: len(batch)], fused[len(batch) :]
        return torch.cat([post_BD, self.habit(post_BD, past_ND, batch.history)], dim=1)

    def fuse(self, t_BD: Tensor, v_BD: Tensor) -> Tensor:
        """p."""
        if self.fusion is None:
            return t_BD + v_BD
        fused_BD: Tensor = self.fusion(t_BD.float(), v_BD.float())
        return fused_BD

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        post_BF = self.dropout(self.posts(batch))
        loss: Tensor = post_BF.new_zeros((), dtype=torch.float32)
        if self.classifier is not None:
            loss = loss + self.judge(self.classifier(post_BF), targets.labels_BV)
        if self.generator is not None:
            logits_BLU, _ = teach(self.generator.step, self.generator.start(post_BF), targets.sequence_BL)
            loss = loss + sequence_loss(logits_BLU, targets.sequence_BL)
        return loss

    def score(self, batch: PostBatch) -> Tensor:
        """Probability of each tag; with the generator alone its list, ranked as `options.ranking` says."""
        post_BF = self.posts(batch)
        if self.generator is None:
            return self.classified(post_BF)
        if self.classifier is None:
            state = self.generator.start(post_BF)
            return decode_scores(self.generator.step, state, self.spec.vocabulary_size, self.settings)
        return torch.lerp(self.classified(post_BF), self.generated(post_BF), self.merge_share)

    def classified(self, post_BF: Tensor) -> Tensor:
        """c_BV."""
        assert self.classifier is not None
        return torch.sigmoid(self.classifier(post_BF).float())

    def generated(self, post_BF: Tensor) -> Tensor:
        """g_BV, for the merged ranking."""
        assert self.generator is not None
        options, tags = self.settings, self.spec.vocabulary_size
        width = options.beam_width if options.decoding == "beam" else 1
        decoded = search(self.generator.step, self.generator.start(post_BF), tags, options.decode_steps, width)
        if options.ranking == "marginal":
            return decoded.inclusion_BV
        written_BK = decoded.probabilities_BK
        discounts_K = options.discount ** torch.arange(written_BK.shape[1], device=written_BK.device)
        nothing_BV = written_BK.new_zeros(len(written_BK), tags)
        return nothing_BV.scatter(1, decoded.tags_BK, written_BK * discounts_K)

    def calibrate(self, source: FitSource) -> dict[str, float]:
        """Choose lambda by F1 at `merge_k` over the posts that have a tag, the smallest of those that are equal."""
        if self.classifier is None or self.generator is None:
            return {}
        shares, tags = torch.linspace(0, 1, MERGE_SHARES), self.spec.vocabulary_size
        ks = [min(self.settings.merge_k, tags)] if self.settings.merge_k else range(1, min(MERGE_KS, tags) + 1)
        sums, posts = torch.zeros(len(ks), MERGE_SHARES, 2), 0
        for batch, true_tags in source.batches(CALIBRATION_POSTS):
            post_BF = self.posts(batch.to(self.merge_share.device))
            classified_BV, generated_BV = self.classified(post_BF), self.generated(post_BF)
            true_BV = torch.zeros_like(classified_BV, dtype=torch.bool)
            for b, row in enumerate(true_tags):
                true_BV[b, row] = True
            count_B = true_BV.sum(1)
            for n, share in enumerate(shares.tolist()):
                best_BK = torch.lerp(classified_BV, generated_BV, share).topk(max(ks), dim=1).indices
                hits_BK = true_BV.gather(1, best_BK).cumsum(1)
                for i, k in enumerate(ks):
                    hits_B = hits_BK[:, k - 1]
                    sums[i, n] += torch.stack([(hits_B / k).sum(), (hits_B / count_B.clamp(min=1)).sum()]).cpu()
            posts += int((count_B > 0).sum())
        precision, recall = (sums / max(posts, 1)).unbind(2)
        f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        k_at, best = divmod(int(f1.argmax()), MERGE_SHARES)
        self.merge_share.fill_(shares[best])
        return {"merge_share": float(shares[best]), f"merge_f1_at_{ks[k_at]}": float(f1[k_at, best])}
