"""Posts as vectors of unit length, for families that compare posts and learn no network: option `features` says which.

    frozen  the encoders' pooled vectors of the modalities in `inputs`, each scaled to unit length, side by side
    tfidf   the caption's words, tf * (ln((1 + n) / (1 + df)) + 1) (scikit-learn's TfidfTransformer), stop words left out
    amnn    x_all of a trained AMNN (article 003), whose encoders, options and tokenizer become part of the model

A modality that a post lacks is a block of zeros: it adds nothing to an inner product, and the same to every distance.
AMNN has a learned vector for it.

(Articles by number: docs/models.md.)
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch
from hashtag_core.data.tokens import TokenizerSpec
from hashtag_core.errors import ConfigError
from hashtag_core.models.amnn import Amnn, AmnnOptions
from hashtag_core.models.base import BuiltOnModel, FitSource, FittedModel, InputSpec, Modality, ModelOptions, TagModel

BATCH = 256
DECODER = ("merge", "tags", "cell", "output")
"""Parts of AMNN that its x_all does not pass through."""
SPECIAL_IDS = 2
"""Padding and the unknown word, the first ids of a `words` tokenizer."""


class VectorOptions(ModelOptions):
    reads: ClassVar[frozenset[Modality]] = frozenset({"image", "caption"})

    features: Literal["frozen", "tfidf", "amnn"] = "frozen"
    max_tokens: int = Field(128, ge=1)
    """Words of a caption that are counted (`tfidf`)."""
    min_word_count: int = Field(2, ge=1)
    """How often a word occurs in the train captions (`tfidf`)."""
    amnn_model: str | None = None
    """A trained AMNN: a model folder or a `models:/` URI. Read when this model is fitted, and not needed afterwards."""
    amnn: AmnnOptions | None = None
    """Its options; taken from it."""

    @model_validator(mode="after")
    def _has_features(self) -> "VectorOptions":
        if self.features == "tfidf" and "caption" not in self.inputs:
            raise ValueError("features: 'tfidf' reads captions; inputs must name 'caption'")
        if self.features == "amnn" and self.amnn and set(self.inputs).isdisjoint(self.amnn.inputs):
            raise ValueError(f"inputs: the AMNN reads {', '.join(self.amnn.inputs)} alone")
        return self


class PostVectors(nn.Module):
    """Posts to `vectors_BD`, `size` numbers each."""

    idf_W: Tensor

    def __init__(self, options: VectorOptions, spec: InputSpec) -> None:
        super().__init__()
        self.kind = options.features
        self.blocks: list[str] = []
        self.amnn: Amnn | None = None
        match options.features:
            case "frozen":
                sizes = {"text_vector_BD": spec.text_dim, "image_vector_BD": spec.image_dim}
                fields = {"caption": "text_vector_BD", "image": "image_vector_BD"}
                self.blocks = [fields[modality] for modality in ("caption", "image") if modality in options.inputs]
                self.size = sum(sizes[block] for block in self.blocks)
            case "tfidf":
                self.size = spec.token_vocabulary_size
                self.register_buffer("idf_W", torch.zeros(self.size))
            case "amnn":
                self.amnn = Amnn(options.amnn or AmnnOptions(), spec).requires_grad_(False)
                self.size = self.amnn.merge.in_features
                for part in DECODER:
                    delattr(self.amnn, part)

    def fit(self, source: FitSource) -> None:
        """Weigh the words by the train captions; other features have nothing to fit."""
        from scipy.sparse import csr_matrix, vstack

        if self.kind != "tfidf":
            return
        counts = [csr_matrix(self._counts(batch)[batch.text_present_B].numpy()) for batch, _ in source.batches(BATCH)]
        if sum(part.nnz for part in counts):
            from sklearn.feature_extraction.text import TfidfTransformer  # here: it takes two seconds to import

            self.idf_W.copy_(torch.from_numpy(TfidfTransformer().fit(vstack(counts)).idf_))

    def _counts(self, batch: PostBatch) -> Tensor:
        """How often each caption holds each word, as floats [B, W]."""
        assert batch.token_ids_BT is not None
        assert batch.token_mask_BT is not None
        counts_BW = torch.zeros(len(batch), self.size, device=batch.token_ids_BT.device)
        counts_BW.scatter_add_(1, batch.token_ids_BT, batch.token_mask_BT.float())
        counts_BW[:, :SPECIAL_IDS] = 0
        return counts_BW

    def forward(self, batch: PostBatch) -> tuple[Tensor, Tensor]:
        """vectors_BD float32, and known_B: whether there is anything of the post in it."""
        if self.amnn is not None:
            vectors_BD = nn.functional.normalize(self.amnn.features(batch).float(), dim=1)
            return vectors_BD, batch.image_present_B | batch.text_present_B
        if self.kind == "tfidf":
            vectors_BD = nn.functional.normalize(self._counts(batch) * self.idf_W, dim=1)
        else:
            vectors_BD = torch.cat([self._block(batch, name) for name in self.blocks], dim=1)
        return vectors_BD, vectors_BD.any(dim=1)

    @staticmethod
    def _block(batch: PostBatch, name: str) -> Tensor:
        present_B = batch.image_present_B if name == "image_vector_BD" else batch.text_present_B
        unit_BD = nn.functional.normalize(getattr(batch, name), dim=1)
        return torch.where(present_B[:, None], unit_BD, 0.0)


class VectorModel(FittedModel, BuiltOnModel):
    """What the families on `PostVectors` have in common."""

    Options: ClassVar[type[ModelOptions]] = VectorOptions

    def __init__(self, options: VectorOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.vectors = PostVectors(options, spec)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        assert isinstance(options, VectorOptions)
        if options.features == "amnn":
            return Amnn.needs(options.amnn or AmnnOptions())
        if options.features == "tfidf":
            return frozenset({"tokens"})
        fields = {"caption": "text_vector", "image": "image_vector"}
        return frozenset(fields[modality] for modality in options.inputs if modality in fields)

    @classmethod
    def tokenizer(cls, options: ModelOptions) -> TokenizerSpec | None:
        assert isinstance(options, VectorOptions)
        if options.features == "amnn":
            return Amnn.tokenizer(options.amnn or AmnnOptions())
        if options.features == "tfidf":
            return TokenizerSpec("words", options.max_tokens, options.min_word_count, stop_words=True)
        return None

    @classmethod
    def base_model(cls, options: ModelOptions) -> str | None:
        assert isinstance(options, VectorOptions)
        if options.features != "amnn":
            return None
        if options.amnn_model is None:
            raise ConfigError(
                "model.features: 'amnn' needs a trained AMNN: set model.amnn_model to its folder or models:/NAME/VERSION"
            )
        return options.amnn_model

    @classmethod
    def on_base(cls, options: ModelOptions, base: TagModel) -> ModelOptions:
        if not isinstance(base, Amnn):
            raise ConfigError(f"model.amnn_model: a model of family 'amnn' expected, found {base.name!r}")
        seen = [modality for modality in options.inputs if modality in base.options.inputs]
        if not seen:
            raise ConfigError(f"model.inputs: the AMNN reads {base.options.inputs} alone, found {options.inputs}")
        return options.model_copy(update={"amnn": base.options, "inputs": seen})

    def take_base(self, base: TagModel) -> None:
        assert self.vectors.amnn is not None
        mine = self.vectors.amnn.state_dict()
        self.vectors.amnn.load_state_dict({key: value for key, value in base.state_dict().items() if key in mine})

    @torch.no_grad()
    def rows(self, source: FitSource) -> Iterator[tuple[Tensor, Tensor, list[list[int]]]]:
        """vectors_BD, known_B and the tags (each once) of the train posts, in their order."""
        self.eval()
        for batch, tags in source.batches(BATCH):
            vectors_BD, known_B = self.vectors(batch)
            yield vectors_BD, known_B, [sorted(set(row)) for row in tags]
