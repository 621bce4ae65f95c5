"""#okboomer: the caption starts an LSTM that writes hashtags, the image is read again at every tag.

Pradyumna Tambwekar, Sameer Dharur: #okboomer: A multi-modal approach towards generating hashtags on social media posts
(article 004 of this project). The article has no numbered equations.

    v        = BatchNorm(W avgpool(ResNet-50(I)) + b)             momentum 0.01
    h_0, c_0 = LSTM(w_1 .. w_T)                                   one layer, 300-d word vectors
    h_t, c_t = LSTM([v ; e(H_{t-1})], h_{t-1}, c_{t-1})           one layer, 300-d tag vectors, 20 steps at most
    p(H_t)   = softmax(W' h_t + b')

Taught by cross-entropy, each step shown the true tag before it with the chance 0.5, else the model's own; Xavier
initialisation. What differs here: hidden size, dropout and this fusion are ours (the article draws the parts and leaves
how they join open). Word vectors, of the caption's words and of the tags that the decoder reads, are learned, or read
from a file of GloVe's text format (the article's are GloVe's) and then trained on; with
`text_input = "encoder"` (ours) w_t are the frozen text encoder's token vectors. The article's augmentation (flips, random
crops) is left out: the encoder is frozen, and each picture is encoded once.

`decoder = "subwords"` (ours) writes pieces of tags in place of tags (`spelling`). It shares pieces between tags, and can
spell only those of the vocabulary: a model here scores a vocabulary, in which an unseen tag has no place.

(Articles by number: docs/models.md.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.data.tokens import CaptionTokenizer, TokenizerSpec
from hashtag_core.json_values import JsonObject
from hashtag_core.models.base import InputSpec, ModelOptions
from hashtag_core.models.layers import CaptionLSTM, CaptionOptions, absent_embedding
from hashtag_core.models.objectives import Output, sequence_loss
from hashtag_core.models.pretrained import check_word_vectors, copy_word_vectors
from hashtag_core.models.registry import register
from hashtag_core.models.sequence import SequenceModel, SequenceOptions, SignEmbedding, decode_scores, teach
from hashtag_core.models.spelling import BYTES, Spelling

TINY = {"embedding": 16, "hidden": 32, "decode_steps": 2, "dropout": 0.1}


class OkboomerOptions(CaptionOptions, SequenceOptions):
    reads: ClassVar = frozenset({"image", "caption"})

    embedding: int = Field(300, ge=1)
    """Of a word, a tag and the projected image."""
    hidden: int = Field(512, ge=1)
    teacher_forcing: float = Field(0.5, ge=0, le=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    decode_steps: int = Field(20, ge=1)
    word_vectors: str | None = None
    """A text file of word vectors (`word x1 x2 ...`) to start from; null: learned from nothing."""
    decoder: Literal["tags", "subwords"] = "tags"
    """`tags`: one step writes one tag; `subwords`: one step writes one piece of a tag (ours)."""
    pieces: int = Field(1000, ge=BYTES)
    """`subwords`: pieces that are learned on the vocabulary's tags, at most."""
    spelling_beam: int = Field(20, ge=1)
    """`subwords`: beginnings of tags that the search for the next tag keeps; at least `decode_steps` finds enough tags."""

    @model_validator(mode="after")
    def _fits(self) -> "OkboomerOptions":
        if self.word_vectors and self.text_input != "words":
            raise ValueError("word_vectors needs text_input = 'words'")
        return self


@dataclass(frozen=True)
class Glance:
    """State between steps: the image, and the LSTM's hidden state and memory cell."""

    image_BE: Tensor
    hidden_BH: Tensor
    cell_BH: Tensor


class NormalisedImage(nn.Module):
    """BatchNorm(W v + b) over the posts that have an image; the others have a learned vector and move no statistics.

    A batch with a single image is normalised by the running statistics: one row has no variance.
    """

    def __init__(self, spec: InputSpec, size: int, seen: bool = True) -> None:
        super().__init__()
        self.project = nn.Linear(spec.image_dim, size) if seen else None
        self.normalise = nn.BatchNorm1d(size, momentum=0.01) if seen else None
        self.absent_D = absent_embedding(size)

    def forward(self, batch: PostBatch) -> Tensor:
        """vector_BD."""
        vector_BD = self.absent_D.expand(len(batch), -1)
        if self.project is None or self.normalise is None:
            return vector_BD
        assert batch.image_vector_BD is not None
        seen_ND = self.project(batch.image_vector_BD[batch.image_present_B]).float()
        norm = self.normalise
        if not self.training or len(seen_ND) > 1:
            seen_ND = norm(seen_ND)
        else:
            seen_ND = nn.functional.batch_norm(
                seen_ND, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        return vector_BD.masked_scatter(batch.image_present_B[:, None], seen_ND)


@register
class Okboomer(SequenceModel):
    name: ClassVar[str] = "okboomer"
    paper: ClassVar[str] = "Tambwekar & Dharur (#okboomer): caption LSTM to tag LSTM, the image at every step."
    Options: ClassVar[type[ModelOptions]] = OkboomerOptions
    examples: ClassVar = {
        "default": TINY,
        "forced": TINY | {"teacher_forcing": 1.0, "ranking": "marginal"},
        "image": TINY | {"inputs": ["image"], "decoding": "beam", "beam_width": 3},
        "caption": TINY | {"inputs": ["caption"]},
        "encoder": TINY | {"text_input": "encoder"},
        "subwords": TINY | {"decoder": "subwords", "pieces": 280, "hidden": 48},
    }

    def __init__(self, options: OkboomerOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.forcing = options.teacher_forcing
        self.settings = options
        self._tags: list[str] = []
        embedded, hidden = options.embedding, options.hidden
        self.image = NormalisedImage(spec, embedded, "image" in options.inputs)
        own = embedded if options.text_input == "words" else None
        self.caption = CaptionLSTM(spec, own, hidden, "caption" in options.inputs)
        self.spelling = Spelling(options.spelling_beam) if options.decoder == "subwords" else None
        signs = spec.vocabulary_size if self.spelling is None else options.pieces + 1
        self.signs = SignEmbedding(signs, embedded)
        self.lstm = nn.LSTMCell(2 * embedded, hidden)
        self.dropout = nn.Dropout(options.dropout)
        self.write = nn.Linear(hidden, signs + 1)
        self.apply(_xavier)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        assert isinstance(options, OkboomerOptions)
        return frozenset(options.caption_needs() | ({"image_vector"} if "image" in options.inputs else set()))

    @classmethod
    def tokenizer(cls, options: ModelOptions) -> TokenizerSpec | None:
        assert isinstance(options, OkboomerOptions)
        return options.words()

    def check_start(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None = None) -> None:
        """Whether `word_vectors` is a file of vectors of the right size."""
        if self.settings.word_vectors:
            check_word_vectors(self.settings.word_vectors, self.settings.embedding)

    def initialise(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None = None) -> None:
        """Copy the word vectors in, of the caption's words and of the tags that the decoder reads; what the file does not
        have keeps its random ones."""
        path, embedding = self.settings.word_vectors, self.caption.embedding
        if path and tokenizer is not None and embedding is not None:
            copy_word_vectors(embedding.weight, path, tokenizer.words())
        if path and self.spelling is None and self._tags:
            copy_word_vectors(self.signs.weight, path, {tag: sign + 1 for sign, tag in enumerate(self._tags)}, "tags")

    def name_tags(self, tags: Sequence[str]) -> None:
        """Learn the pieces of the tags, and which word each is."""
        self._tags = list(tags)
        if self.spelling is not None:
            self.spelling.learn(tags, self.settings.pieces)

    def extra_state(self) -> JsonObject:
        """How each tag is spelled."""
        return {} if self.spelling is None else {"spellings": self.spelling.spellings}

    def load_extra_state(self, values: JsonObject) -> None:
        if self.spelling is not None:
            self.spelling.set(values["spellings"])

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(self.write, "next")] if self.spelling is None else []

    def start(self, batch: PostBatch) -> Glance:
        """The caption's state and the image."""
        caption = self.caption(batch)
        return Glance(self.image(batch), caption.last_BD, caption.cell_BD)

    def step(self, previous_B: Tensor | None, state: Glance) -> tuple[Tensor, Glance]:
        """One tag, or one piece of a tag."""
        sign_BE = self.signs.after(previous_B, len(state.image_BE))
        read_BE = self.dropout(torch.cat([state.image_BE, sign_BE], dim=1))
        hidden_BH, cell_BH = self.lstm(read_BE, (state.hidden_BH, state.cell_BH))
        return self.write(self.dropout(hidden_BH)), Glance(state.image_BE, hidden_BH, cell_BH)

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        """Cross-entropy of the tags, or of the pieces that spell them."""
        if self.spelling is None:
            return super().loss(batch, targets)
        signs_BM = self.spelling.targets(targets.sequence_BL)
        logits_BMP, _ = teach(self.step, self.start(batch), signs_BM, self.forcing if self.training else 1.0)
        return sequence_loss(logits_BMP, signs_BM)

    def score(self, batch: PostBatch) -> Tensor:
        step = self.step if self.spelling is None else self.spelling.tag_step(self.step)
        return decode_scores(step, self.start(batch), self.spec.vocabulary_size, self.settings)


def _xavier(module: nn.Module) -> None:
    """Glorot's uniform weights, for each gate of an LSTM on its own; biases 0."""
    if not isinstance(module, nn.Linear | nn.LSTM | nn.LSTMCell | nn.Embedding):
        return
    for name, parameter in module.named_parameters(recurse=False):
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
        elif isinstance(module, nn.LSTM | nn.LSTMCell):
            for gate in parameter.data.chunk(4):
                nn.init.xavier_uniform_(gate)
        else:
            nn.init.xavier_uniform_(parameter)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        module.weight.data[module.padding_idx] = 0.0
