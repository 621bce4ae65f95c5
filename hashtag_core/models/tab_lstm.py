"""Topical attention-based LSTM (TAB-LSTM): the caption's topics decide which of its words count. Text alone.

Yang Li, Ting Liu, Jing Jiang, Liang Zhang: Hashtag Recommendation with Topical Attention-Based LSTM, COLING 2016,
https://aclanthology.org/C16-1284. A baseline of articles 000 and 001.

    h_j    = LSTM(x_1 .. x_j)
    theta  = the caption's topics by LDA, fitted on the train captions
    g_j    = v^T tanh(W theta + U h_j)
    a_j    = exp(g_j) / sum_i exp(g_i),   vec = sum_j a_j h_j
    p      = softmax(W' dropout(vec) + b),  J = - sum_y log p_y

What differs here: LDA is scikit-learn's online variational Bayes on this family's own tokens, words in a tenth of all
captions or more left out. A missing caption is a learned vector. `loss = "bce"` judges each tag alone.
`text_input = "encoder"` reads the frozen text encoder's token vectors as x_j (ours); the topics keep the words.

(Articles by number: docs/models.md.)
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.data.tokens import TokenizerSpec
from hashtag_core.models.base import FitSource, InputSpec, ModelOptions, NeuralModel
from hashtag_core.models.layers import CaptionLSTM, CaptionOptions, masked_softmax
from hashtag_core.models.long_tail import LongTailOptions, MultiLabelLoss
from hashtag_core.models.objectives import Output, softmax_loss
from hashtag_core.models.registry import register
from hashtag_core.models.topics import TopicModel

TINY = {"embedding": 16, "hidden": 16, "topics": 3, "topic_passes": 1, "topic_max_share": 1.0, "dropout": 0.1}


class TabLstmOptions(CaptionOptions, LongTailOptions):
    reads: ClassVar = frozenset({"caption"})

    embedding: int = Field(300, ge=1)
    """Of a word (`words`)."""
    hidden: int = Field(300, ge=1)
    """Of the LSTM, and of W, U and v."""
    topics: int = Field(100, ge=2)
    topic_passes: int = Field(10, ge=1)
    """Passes of LDA over the train captions."""
    topic_max_share: float = Field(0.1, gt=0, le=1)
    """Words in a larger share of the captions are not read by LDA."""
    dropout: float = Field(0.75, ge=0, lt=1)
    loss: Literal["softmax", "bce"] = "softmax"


class TopicalAttention(nn.Module):
    """a_j = softmax_j(v^T tanh(W theta + U h_j)), and the sum of the words so weighted."""

    def __init__(self, topics: int, size: int) -> None:
        super().__init__()
        self.topics = nn.Linear(topics, size, bias=False)
        self.words = nn.Linear(size, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, states_BTD: Tensor, theta_BK: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """vec_BD and a_BT."""
        joined_BTD = torch.tanh(self.topics(theta_BK)[:, None] + self.words(states_BTD))
        weights_BT = masked_softmax(self.score(joined_BTD).squeeze(-1), mask_BT)
        return (weights_BT[..., None] * states_BTD).sum(1), weights_BT


@register
class TabLstm(NeuralModel):
    name: ClassVar[str] = "tab_lstm"
    paper: ClassVar[str] = (
        "Li et al. 2016 (TAB-LSTM): attention over words guided by LDA topics; one softmax. Text alone."
    )
    objective: ClassVar = "softmax"
    Options: ClassVar[type[ModelOptions]] = TabLstmOptions
    examples: ClassVar = {"default": TINY, "bce": TINY | {"loss": "bce"}, "encoder": TINY | {"text_input": "encoder"}}

    def __init__(self, options: TabLstmOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.settings = options
        own = options.text_input == "words"
        self.caption = CaptionLSTM(spec, options.embedding if own else None, options.hidden)
        self.topic_model = TopicModel(options.topics, spec.token_vocabulary_size)
        self.attention = TopicalAttention(options.topics, options.hidden)
        self.dropout = nn.Dropout(options.dropout)
        self.classify = nn.Linear(options.hidden, spec.vocabulary_size)
        self.judge = MultiLabelLoss(options, spec.vocabulary_size)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        assert isinstance(options, TabLstmOptions)
        return frozenset(options.caption_needs() | {"tokens"})

    @classmethod
    def tokenizer(cls, options: ModelOptions) -> TokenizerSpec:
        assert isinstance(options, TabLstmOptions)
        return TokenizerSpec("words", options.max_tokens, options.min_word_count)

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(self.classify, "each" if self.settings.loss == "bce" else "one")]

    def prepare(self, source: FitSource, *, seed: int) -> None:
        """Fit the topic model."""
        options = self.settings
        self.topic_model.fit(source, seed=seed, passes=options.topic_passes, max_share=options.topic_max_share)

    def logits(self, batch: PostBatch) -> Tensor:
        """logits_BV."""
        assert batch.token_ids_BT is not None
        assert batch.token_mask_BT is not None
        text = self.caption(batch)
        theta_BK = self.topic_model(batch.token_ids_BT, batch.token_mask_BT)
        post_BD, _ = self.attention(text.states_BTD, theta_BK, text.mask_BT)
        logits_BV: Tensor = self.classify(self.dropout(post_BD))
        return logits_BV

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        objective = self.judge if self.settings.loss == "bce" else softmax_loss
        loss: Tensor = objective(self.logits(batch), targets.labels_BV)
        return loss

    def score(self, batch: PostBatch) -> Tensor:
        """Share of the softmax, or with `bce` the probability of each tag."""
        logits_BV = self.logits(batch).float()
        return torch.sigmoid(logits_BV) if self.settings.loss == "bce" else torch.softmax(logits_BV, dim=-1)
