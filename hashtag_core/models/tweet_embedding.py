"""TweetEmbed_Net: the parts of a post and the tags in one space, taught by their distances; tags are ranked by similarity.

Ryan Rivas, Sudipta Paul, Vagelis Hristidis, Evangelos E. Papalexakis, Amit K. Roy-Chowdhury: Task-Agnostic
Representation Learning of Multimodal Twitter Data for Downstream Applications, Journal of Big Data 9, 2022,
https://doi.org/10.1186/s40537-022-00570-x. A baseline of articles 000 and 001, which use "images, text, and hashtags" of it
and say no more.

    z_m   = MLP_m(x_m) / |.|,  m the image, the text          e_v = E_v / |.|, each tag v
    p     = (mean of the z_m that are there) / |.|
    d(q)  = - sum_v y_v log softmax_v(q . e_v / tau)
    loss  = d(p) + mean_m d(z_m) + alignment * (1 - z_image . z_text)
    score = (1 + p . e_v) / 2

What is ours: sizes and loss. Every part of a post is drawn to its tags, away from all others, and to the other part.
The tags of a post are in the loss alone. User, place and time, parts of a tweet in its paper, are left out, as in 000.
The text is the encoder's vector (`encoder`) or the mean of its words' vectors (`words`). A part that is absent is
left out of the mean; a post without any is a learned vector.

(Articles by number: docs/models.md.)
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.data.tokens import TokenizerSpec
from hashtag_core.models.base import InputSpec, Modality, ModelOptions, NeuralModel
from hashtag_core.models.layers import absent_embedding
from hashtag_core.models.objectives import softmax_loss
from hashtag_core.models.registry import register

TINY = {"size": 16, "hidden": 32, "embedding": 16, "dropout": 0.1}


class TweetEmbeddingOptions(ModelOptions):
    reads: ClassVar[frozenset[Modality]] = frozenset({"image", "caption"})

    size: int = Field(256, ge=1)
    """Of the common space."""
    hidden: int = Field(512, ge=1)
    """Of each part's MLP."""
    text_input: Literal["words", "encoder"] = "words"
    embedding: int = Field(300, ge=1)
    """Of a word (`words`)."""
    max_tokens: int = Field(128, ge=1)
    min_word_count: int = Field(1, ge=1)
    temperature: float = Field(0.1, gt=0)
    """tau."""
    alignment: float = Field(0.1, ge=0)
    """Weight of the distance between the image and the text of a post."""
    dropout: float = Field(0.5, ge=0, lt=1)


class Part(nn.Module):
    """z_m: a vector of one part of a post, into the common space."""

    def __init__(self, width: int, options: TweetEmbeddingOptions) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, options.hidden),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(options.hidden, options.size),
        )

    def forward(self, vector_BD: Tensor) -> Tensor:
        return nn.functional.normalize(self.layers(vector_BD).float(), dim=-1)


@register
class TweetEmbedding(NeuralModel):
    name: ClassVar[str] = "tweet_embedding"
    paper: ClassVar[str] = (
        "Rivas et al. 2022 (TweetEmbed_Net): parts of a post and tags in one space, ranked by cosine."
    )
    objective: ClassVar = "metric"
    Options: ClassVar[type[ModelOptions]] = TweetEmbeddingOptions
    examples: ClassVar = {
        "default": TINY,
        "encoder": TINY | {"text_input": "encoder"},
        "image": TINY | {"inputs": ["image"]},
        "caption": TINY | {"inputs": ["caption"]},
    }

    def __init__(self, options: TweetEmbeddingOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.settings = options
        self.image = Part(spec.image_dim, options) if "image" in options.inputs else None
        self.words: nn.Embedding | None = None
        self.text: Part | None = None
        if "caption" in options.inputs:
            own = options.text_input == "words"
            if own:
                self.words = nn.Embedding(spec.token_vocabulary_size, options.embedding, padding_idx=spec.pad_token_id)
            self.text = Part(options.embedding if own else spec.text_dim, options)
        self.tags = nn.Parameter(torch.randn(spec.vocabulary_size, options.size))
        self.absent_D = absent_embedding(options.size)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        assert isinstance(options, TweetEmbeddingOptions)
        fields = {"image": "image_vector", "caption": "tokens" if options.text_input == "words" else "text_vector"}
        return frozenset(fields[modality] for modality in options.inputs if modality in fields)

    @classmethod
    def tokenizer(cls, options: ModelOptions) -> TokenizerSpec | None:
        assert isinstance(options, TweetEmbeddingOptions)
        if options.text_input != "words" or "caption" not in options.inputs:
            return None
        return TokenizerSpec("words", options.max_tokens, options.min_word_count)

    def parts(self, batch: PostBatch) -> tuple[Tensor, Tensor]:
        """z_BMD, a unit vector of each part of each post, and there_BM; zeros for a part that is absent."""
        parts, there = [], []
        if self.image is not None:
            assert batch.image_vector_BD is not None
            parts.append(self.image(batch.image_vector_BD))
            there.append(batch.image_present_B)
        if self.text is not None:
            parts.append(self.text(self._text(batch)))
            there.append(batch.text_present_B)
        there_BM = torch.stack(there, dim=1)
        return torch.where(there_BM[..., None], torch.stack(parts, dim=1), 0.0), there_BM

    def _text(self, batch: PostBatch) -> Tensor:
        """x of the text, [B, D]."""
        if self.words is None:
            assert batch.text_vector_BD is not None
            return batch.text_vector_BD
        assert batch.token_ids_BT is not None
        assert batch.token_mask_BT is not None
        mask_BT1 = batch.token_mask_BT[..., None]
        total_BD: Tensor = (self.words(batch.token_ids_BT) * mask_BT1).sum(1)
        return total_BD / mask_BT1.sum(1).clamp(min=1)

    def post(self, z_BMD: Tensor, there_BM: Tensor) -> Tensor:
        """p_BD."""
        whole_BD = torch.where(there_BM.any(1)[:, None], z_BMD.sum(1), self.absent_D)
        return nn.functional.normalize(whole_BD, dim=-1)

    def similarities(self, vectors: Tensor) -> Tensor:
        """q . e_v of unit vectors [..., D] to every tag, [..., V] in [-1, 1]."""
        with torch.autocast(vectors.device.type, enabled=False):
            return vectors.float() @ nn.functional.normalize(self.tags, dim=-1).t()

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        """A post without tags has no more than the distance of its parts."""
        z_BMD, there_BM = self.parts(batch)
        tau = self.settings.temperature
        total = softmax_loss(self.similarities(self.post(z_BMD, there_BM)) / tau, targets.labels_BV)
        share_BM = there_BM / there_BM.sum(1, keepdim=True).clamp(min=1)
        for m, share_B in enumerate(share_BM.unbind(1)):
            weighted_BV = targets.labels_BV * share_B[:, None]
            total = total + softmax_loss(self.similarities(z_BMD[:, m]) / tau, weighted_BV)
        if z_BMD.shape[1] == 2:
            apart_B = 1 - (z_BMD[:, 0] * z_BMD[:, 1]).sum(1)
            total = total + self.settings.alignment * (apart_B * there_BM.all(1)).mean()
        return total

    def score(self, batch: PostBatch) -> Tensor:
        return ((1 + self.similarities(self.post(*self.parts(batch)))) / 2).clamp(0, 1)
