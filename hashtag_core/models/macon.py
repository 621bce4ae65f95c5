"""MACON: words and regions find each other, and the user's earlier posts tell of the user's tagging habit.

Suwei Zhang, Yuan Yao, Feng Xu, Hanghang Tong, Xiaohui Yan, Jian Lu: Hashtag Recommendation for Photo Sharing Services,
AAAI 2019, https://doi.org/10.1609/aaai.v33i01.33015805, as article 002 describes it, with the parallel co-attention of
Jiasen Lu, Jianwei Yang, Dhruv Batra, Devi Parikh: Hierarchical Question-Image Co-Attention for Visual Question Answering,
NIPS 2016, https://arxiv.org/abs/1606.00061 (its equations 3-5; T holds the words, V the regions):

    C   = tanh(T^T W_b V)                                              affinity of each word and region     (3)
    H_v = tanh(W_v V + (W_t T) C),   H_t = tanh(W_t T + (W_v V) C^T)                                        (4)
    a_v = softmax(w_hv^T H_v),       a_t = softmax(w_ht^T H_t)                                              (4)
    v   = sum_n a_v,n v_n,           t   = sum_s a_t,s t_s                                                  (5)
    p   = t + v                                                        the post
    b_h = softmax_h(p^T W_m p_h / sqrt(D))                             p_h: an earlier post, read by the same module
    m   = sum_h b_h mean_l e(tag l of post h)                          the habit
    y   = softmax(W [p ; m] + b),  J = - sum_y log y

What differs here, or is left open in 002: the sizes and the form of b are ours, and a post's tags share its weight, so that
a post of many tags does not drown the others. Words are the frozen text encoder's token vectors, since an earlier post
comes with a pooled vector for each modality: one word, one region. Hence LayerNorm before the projections: a pooled
vector is not as long as a token. Earlier posts without a tag of the vocabulary say nothing of the habit and are passed
over. A missing image, caption or history is a learned region, word or habit. `loss = "bce"` judges each tag alone.

(Articles by number: docs/models.md.)
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import HistoryBatch, PostBatch, Targets
from hashtag_core.models.base import InputSpec, ModelOptions, NeuralModel
from hashtag_core.models.layers import absent_embedding, masked_softmax
from hashtag_core.models.long_tail import LongTailOptions, MultiLabelLoss
from hashtag_core.models.objectives import Output, softmax_loss
from hashtag_core.models.registry import register

TINY = {"hidden": 16, "attention_units": 8, "dropout": 0.1}


class MaconOptions(LongTailOptions):
    hidden: int = Field(512, ge=1)
    """Of a word, a region, a post and a tag: D."""
    attention_units: int = Field(512, ge=1)
    """Rows of W_v and W_t."""
    history_posts: int = Field(5, ge=1)
    """Earlier posts of the user that are read, at most."""
    dropout: float = Field(0.5, ge=0, lt=1)
    loss: Literal["softmax", "bce"] = "softmax"


def history_needs(options: ModelOptions) -> frozenset[str]:
    """Features of a family that reads words, regions and history: each modality of a history comes pooled."""
    names = {"image": "image_grid", "caption": "text_states", "history": "history"}
    pooled = {"image": "image_vector", "caption": "text_vector"} if "history" in options.inputs else {}
    return frozenset(
        fields[modality] for fields in (names, pooled) for modality in options.inputs if modality in fields
    )


class Items(nn.Module):
    """The parts of one modality (words or regions), and one learned part more that stands for them where there are none.

    With `size` 0 there is nowhere any part, and nothing but that one.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, hidden), nn.Tanh()) if size else None
        self.absent_D = absent_embedding(hidden)

    def forward(self, posts: int, parts_BNX: Tensor | None, mask_BN: Tensor | None) -> tuple[Tensor, Tensor]:
        """parts_BMD and mask_BM with M = N + 1 and at least one True a row; without parts M is 1."""
        absent_B1D = self.absent_D.expand(posts, 1, -1)
        if self.read is None or parts_BNX is None or mask_BN is None:
            return absent_B1D, torch.ones(posts, 1, dtype=torch.bool, device=absent_B1D.device)
        parts_BND = self.read(parts_BNX)
        return (
            torch.cat([parts_BND, absent_B1D.to(parts_BND.dtype)], dim=1),
            torch.cat([mask_BN, ~mask_BN.any(1, keepdim=True)], dim=1),
        )


class ParallelCoAttention(nn.Module):
    """Lu 2016, equations 3-5. Parts that the masks leave out have no share in C or in the sums.

    A modality that is nowhere there has one part, and no weights to learn.
    """

    def __init__(self, hidden: int, attention_units: int, reads: bool = True, sees: bool = True) -> None:
        super().__init__()
        self.affinity = nn.Linear(hidden, hidden, bias=False)
        self.word_key = nn.Linear(hidden, attention_units, bias=False)
        self.region_key = nn.Linear(hidden, attention_units, bias=False)
        self.word_score = nn.Linear(attention_units, 1, bias=False) if reads else None
        self.region_score = nn.Linear(attention_units, 1, bias=False) if sees else None

    def weights(
        self, words_BSD: Tensor, word_mask_BS: Tensor, regions_BRD: Tensor, region_mask_BR: Tensor
    ) -> tuple[Tensor, Tensor]:
        """a_t as BS and a_v as BR."""
        both_BSR = word_mask_BS[:, :, None] & region_mask_BR[:, None]
        affinity_BSR = torch.tanh(self.affinity(words_BSD) @ regions_BRD.transpose(1, 2)) * both_BSR
        words_BSA, regions_BRA = self.word_key(words_BSD), self.region_key(regions_BRD)
        seen_BRA = torch.tanh(regions_BRA + affinity_BSR.transpose(1, 2) @ words_BSA)
        read_BSA = torch.tanh(words_BSA + affinity_BSR @ regions_BRA)
        word_share_BS, region_share_BR = word_mask_BS.float(), region_mask_BR.float()
        if self.word_score is not None:
            word_share_BS = masked_softmax(self.word_score(read_BSA).squeeze(-1), word_mask_BS)
        if self.region_score is not None:
            region_share_BR = masked_softmax(self.region_score(seen_BRA).squeeze(-1), region_mask_BR)
        return word_share_BS, region_share_BR

    def forward(
        self, words_BSD: Tensor, word_mask_BS: Tensor, regions_BRD: Tensor, region_mask_BR: Tensor
    ) -> tuple[Tensor, Tensor]:
        """t_BD and v_BD."""
        word_share_BS, region_share_BR = self.weights(words_BSD, word_mask_BS, regions_BRD, region_mask_BR)
        return (word_share_BS[..., None] * words_BSD).sum(1), (region_share_BR[..., None] * regions_BRD).sum(1)


class Habit(nn.Module):
    """m: the embeddings of the tags of earlier posts, these weighted by what the post makes of them."""

    def __init__(self, post_size: int, vocabulary_size: int, size: int, seen: bool = True) -> None:
        super().__init__()
        self.match = nn.Linear(post_size, post_size, bias=False) if seen else None
        self.tags = nn.Embedding(vocabulary_size, size) if seen else None
        self.absent_D = absent_embedding(size)

    def weights(self, post_BD: Tensor, past_BHD: Tensor, history: HistoryBatch) -> Tensor:
        """b_BH; 0 for every post of a history none of which has a tag."""
        assert self.match is not None
        scores_BH = (past_BHD @ self.match(post_BD)[..., None]).squeeze(-1) / math.sqrt(post_BD.shape[1])
        return masked_softmax(scores_BH, history.mask_BH & (history.tags_BHL >= 0).any(2))

    def forward(self, post_BD: Tensor, past_ND: Tensor | None, history: HistoryBatch | None) -> Tensor:
        """habit_BE; `past_ND` are the posts of the history that are there, post by post."""
        if history is None or past_ND is None or self.tags is None:
            return self.absent_D.expand(len(post_BD), -1)
        past_BHD = past_ND.new_zeros(*history.mask_BH.shape, past_ND.shape[1])
        past_BHD = past_BHD.masked_scatter(history.mask_BH[..., None], past_ND)
        known_BHL = (history.tags_BHL >= 0) & history.mask_BH[..., None]
        weights_BH1 = self.weights(post_BD, past_BHD, history)[..., None]
        share_BHL = weights_BH1 * known_BHL / known_BHL.sum(2, keepdim=True).clamp(min=1)
        one_more = (0, 1)  # a tag of no weight: a bag of no tag at all is refused
        habit_BE = nn.functional.embedding_bag(
            nn.functional.pad((history.tags_BHL * known_BHL).flatten(1), one_more),
            self.tags.weight,
            mode="sum",
            per_sample_weights=nn.functional.pad(share_BHL.flatten(1), one_more),
        )
        return torch.where(known_BHL.flatten(1).any(1, keepdim=True), habit_BE, self.absent_D)


class PostReader(nn.Module):
    """Words and regions to t and v: of posts, and by the same weights of the posts of their histories.

    `words` is what happens to the words before they meet the regions (article 002 weighs them).
    """

    def __init__(
        self, options: ModelOptions, spec: InputSpec, hidden: int, attention_units: int, words: nn.Module | None = None
    ) -> None:
        super().__init__()
        reads, sees = "caption" in options.inputs, "image" in options.inputs
        self.words = Items(spec.text_dim if reads else 0, hidden)
        self.regions = Items(spec.image_dim if sees else 0, hidden)
        self.weigh = words
        self.attend = ParallelCoAttention(hidden, attention_units, reads, sees)

    def forward(self, batch: PostBatch) -> tuple[Tensor, Tensor]:
        """t_BD and v_BD."""
        grid_BRX = batch.image_grid_BRD
        seen_BR = None if grid_BRX is None else batch.image_present_B[:, None].expand(-1, grid_BRX.shape[1])
        return self._join(len(batch), batch.text_states_BSD, batch.text_states_mask_BS, grid_BRX, seen_BR)

    def looks_at(self, batch: PostBatch) -> Tensor | None:
        """a_v as BR, without the part that stands for a missing picture; None where no picture is read."""
        grid_BRX = batch.image_grid_BRD
        if grid_BRX is None or self.attend.region_score is None:
            return None
        seen_BR = batch.image_present_B[:, None].expand(-1, grid_BRX.shape[1])
        items = self._items(len(batch), batch.text_states_BSD, batch.text_states_mask_BS, grid_BRX, seen_BR)
        return self.attend.weights(*items)[1][:, :-1]

    def history(self, history: HistoryBatch) -> tuple[Tensor, Tensor]:
        """t_ND and v_ND of the N posts that are there, in the order of `history.mask_BH`."""
        there_BH = history.mask_BH

        def one(value_BH: Tensor | None) -> Tensor | None:
            return None if value_BH is None else value_BH[there_BH][:, None]

        return self._join(
            int(there_BH.sum()),
            one(history.text_vector_BHD),
            one(history.text_present_BH),
            one(history.image_vector_BHD),
            one(history.image_present_BH),
        )

    def _join(
        self, posts: int, words: Tensor | None, said: Tensor | None, regions: Tensor | None, seen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        attended: tuple[Tensor, Tensor] = self.attend(*self._items(posts, words, said, regions, seen))
        return attended

    def _items(
        self, posts: int, words: Tensor | None, said: Tensor | None, regions: Tensor | None, seen: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What meets in the co-attention: words_BSD, said_BS, regions_BRD, seen_BR."""
        words_BSD, said_BS = self.words(posts, words, said)
        regions_BRD, seen_BR = self.regions(posts, regions, seen)
        if self.weigh is not None:
            words_BSD = self.weigh(words_BSD, said_BS)
        return words_BSD, said_BS, regions_BRD, seen_BR


@register
class Macon(NeuralModel):
    name: ClassVar[str] = "macon"
    paper: ClassVar[str] = (
        "Zhang et al. 2019 (MACON): parallel co-attention, and a memory of the user's tags; one softmax."
    )
    objective: ClassVar = "softmax"
    Options: ClassVar[type[ModelOptions]] = MaconOptions
    examples: ClassVar = {
        "default": TINY,
        "bce": TINY | {"loss": "bce"},
        "image": TINY | {"inputs": ["image", "history"]},
        "caption": TINY | {"inputs": ["caption", "history"]},
        "content": TINY | {"inputs": ["image", "caption"]},
    }

    def __init__(self, options: MaconOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self._bce = options.loss == "bce"
        hidden = options.hidden
        self.reader = PostReader(options, spec, hidden, options.attention_units)
        self.habit = Habit(hidden, spec.vocabulary_size, hidden, "history" in options.inputs)
        self.dropout = nn.Dropout(options.dropout)
        self.classify = nn.Linear(2 * hidden, spec.vocabulary_size)
        self.judge = MultiLabelLoss(options, spec.vocabulary_size)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        return history_needs(options)

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(self.classify, "each" if self._bce else "one")]

    def looks_at(self, batch: PostBatch) -> Tensor | None:
        """a_v of the post itself."""
        return self.reader.looks_at(batch)

    def logits(self, batch: PostBatch) -> Tensor:
        """logits_BV."""
        words_BD, regions_BD = self.reader(batch)
        post_BD, past_ND = words_BD + regions_BD, None
        if batch.history is not None:
            past_ND = torch.add(*self.reader.history(batch.history))
        habit_BD = self.habit(post_BD, past_ND, batch.history)
        logits_BV: Tensor = self.classify(self.dropout(torch.cat([post_BD, habit_BD], dim=1)))
        return logits_BV

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        objective = self.judge if self._bce else softmax_loss
        loss: Tensor = objective(self.logits(batch), targets.labels_BV)
        return loss

    def score(self, batch: PostBatch) -> Tensor:
        """Share of the softmax, or with `bce` the probability of each tag."""
        logits_BV = self.logits(batch).float()
        return torch.sigmoid(logits_BV) if self._bce else torch.softmax(logits_BV, dim=-1)
