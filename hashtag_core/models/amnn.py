"""AMNN: image and caption encoders side by side, and a GRU that writes the tags one after another.

Qi Yang, Gaosheng Wu, Yuhua Li, Ruixuan Li, Xiwu Gu, Huicai Deng, Junzhuang Wu: AMNN: Attention-Based Multimodal Neural
Network Model for Hashtag Recommendation, IEEE Transactions on Computational Social Systems 7(3), 2020 (article 003).

    image    pooled CNN vector or grid -> Dense 128 -> LSTM 256 (eq. 1-5) -> attention
             h^_i = tanh(W h_i + b)  (6)    p_i = softmax(W_b h^_i + b_b)  (7)    X_f,i = p_i h_i^T  (8)
    caption  embedding 300 -> BiLSTM 128 -> attention -> Dense 128
             h-_t = tanh(W_t h_t + b_t)  (9)    p = softmax(h-_t)  (10)    T_f = p . h_t  (11)
    merge    x_all = [X_f ; T_f]
    decoder  x_1 = x_all (H_0 of eq. 19), x_t = W_e H_t-1  (12)
             r = sigma(W_r x + U_r h)  (14)    z = sigma(W_z x + U_z h)  (15)
             h~ = tanh(W x + U (r . h))  (16)    h = (1 - z) h + z h~  (17)
             P_t = softmax(W_i h_t)  (18)    J = - sum_t log p(H_t | I, H_0 .. H_t-1)  (19)

What differs here, or is left open there:
- (7), (8) `attention = "literal"`: softmax over a step's units, one number a step, so X_f has as many numbers as the LSTM
  has steps (`image_steps`, d in the article) of the repeated pooled vector. `"grid"`: one step a region, softmax over the regions, X_f = sum_i p_i h_i.
- (10), (11): softmax over the tokens for each unit, T_f = sum_t p_t . h_t.
- A ReLU after the text's dense layer is ours (`text_activation = "relu"`, the default); the paper recipe has "none".
- (12) W_e goes to the width that x_all is brought to (`decoder_input_size`). `context = "every"` adds x_all to each step's input, as
  the published code does; `feedback = "none"` leaves the tags out and gives x_all at each step (the article's prose).
- `merge = "add"`: the published code's way, both brought to 128.
- Weights begin as `layers.initialise_glorot` draws them: the article does not say how its own do.
- A missing image or caption is a learned X_f or T_f. A model of one modality has no other branch.
- END is a sign of the decoder; it is taught and never recommended. `decoding = "beam"` and `ranking = "marginal"` are ours.

(Articles by number: docs/models.md.)
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hashtag_core.data.batches import PostBatch
from hashtag_core.data.tokens import CaptionTokenizer, TokenizerSpec
from hashtag_core.models.base import InputSpec, Modality, ModelOptions
from hashtag_core.models.layers import initialise_glorot
from hashtag_core.models.objectives import Output
from hashtag_core.models.pretrained import check_word_vectors, copy_word_vectors
from hashtag_core.models.registry import register
from hashtag_core.models.sequence import SequenceModel, SequenceOptions

TINY = {
    "image_dense": 16,
    "image_hidden": 16,
    "image_steps": 8,
    "embedding": 16,
    "min_word_count": 1,
    "text_hidden": 8,
    "text_dense": 16,
    "decoder_hidden": 32,
    "decoder_input_size": 32,
    "dropout": 0.1,
}


class AmnnOptions(SequenceOptions):
    reads: ClassVar[frozenset[Modality]] = frozenset({"image", "caption"})
    attention: Literal["literal", "grid"] = "literal"
    normalise_regions: bool = False
    """`grid`: each region brought to mean 0 and variance 1 first (ours)."""
    image_dense: int = Field(128, ge=1)
    image_hidden: int = Field(256, ge=1)
    image_steps: int = Field(256, ge=1)
    """How often the LSTM reads the pooled vector (`literal`)."""
    text_input: Literal["words", "encoder"] = "words"
    """`words`: embeddings of its own; `encoder`: the frozen text encoder's token vectors (ours)."""
    embedding: int = Field(300, ge=1)
    word_vectors: str | None = None
    """A text file of word vectors (`word x1 x2 ...`), kept frozen (table VII)."""
    max_tokens: int = Field(64, ge=1)
    min_word_count: int = Field(2, ge=1)
    text_hidden: int = Field(128, ge=1)
    """Of each direction."""
    text_dense: int = Field(128, ge=1)
    text_activation: Literal["relu", "none"] = "relu"
    """After that dense layer: `relu` is ours, the article names none."""
    merge: Literal["concat", "add"] = "concat"
    decoder_hidden: int = Field(256, ge=1)
    decoder_input_size: int = Field(256, ge=1)
    feedback: Literal["previous", "none"] = "previous"
    context: Literal["first", "every"] = "first"
    dropout: float = Field(0.5, ge=0, lt=1)
    output_bias: bool = False
    """A bias beside W_i of (18) (ours); it begins as the tags' shares of the train posts."""

    @model_validator(mode="after")
    def _fits(self) -> "AmnnOptions":
        if self.normalise_regions and self.attention != "grid":
            raise ValueError("normalise_regions needs attention = 'grid'")
        if self.word_vectors and self.text_input != "words":
            raise ValueError("word_vectors needs text_input = 'words'")
        return self


class ImageEncoder(nn.Module):
    """X_f of the image (eq. 1-8)."""

    def __init__(self, options: AmnnOptions, spec: InputSpec) -> None:
        super().__init__()
        hidden = options.image_hidden
        self.literal, self.steps = options.attention == "literal", options.image_steps
        self.normalise = options.normalise_regions
        self.out = options.image_steps if self.literal else hidden
        self.dense = nn.Linear(spec.image_dim, options.image_dense)
        self.dropout = nn.Dropout(options.dropout)
        self.lstm = nn.LSTM(options.image_dense, hidden, batch_first=True)
        self.project = nn.Linear(hidden, hidden)
        self.attend = nn.Linear(hidden, hidden if self.literal else 1)
        self.absent_D = nn.Parameter(torch.randn(self.out) * 0.02)

    def weights(self, states_BSH: Tensor) -> Tensor:
        """The shares of the LSTM's states: [B, S, H], over H (`literal`), or [B, S, 1], over S (`grid`)."""
        scores: Tensor = self.attend(torch.tanh(self.project(states_BSH)))
        return scores.softmax(dim=-1 if self.literal else 1)

    def attention(self, states_BSH: Tensor) -> Tensor:
        """X_f from the LSTM's states: [B, S] (`literal`) or [B, H] (`grid`)."""
        return (self.weights(states_BSH) * states_BSH).sum(dim=-1 if self.literal else 1)

    def states(self, batch: PostBatch) -> Tensor:
        """What the LSTM makes of the picture: [B, S, H]."""
        if self.literal:
            assert batch.image_vector_BD is not None
            dense_BE = self.dense(batch.image_vector_BD)
            steps_BSE = self.dropout(dense_BE)[:, None].expand(-1, self.steps, -1)
        else:
            assert batch.image_grid_BRD is not None
            regions_BRD = batch.image_grid_BRD
            if self.normalise:
                regions_BRD = nn.functional.layer_norm(regions_BRD, regions_BRD.shape[-1:])
            steps_BSE = self.dropout(self.dense(regions_BRD))
        states_BSH: Tensor = self.lstm(steps_BSE)[0]
        return states_BSH

    def forward(self, batch: PostBatch) -> Tensor:
        seen_BH = self.attention(self.states(batch))
        return torch.where(batch.image_present_B[:, None], seen_BH, self.absent_D)


class TextEncoder(nn.Module):
    """T_f of the caption (eq. 9-11)."""

    def __init__(self, options: AmnnOptions, spec: InputSpec) -> None:
        super().__init__()
        self.words: nn.Embedding | None = None
        size = spec.text_dim
        if options.text_input == "words":
            size = options.embedding
            self.words = nn.Embedding(spec.token_vocabulary_size, size, padding_idx=spec.pad_token_id)
            self.words.weight.requires_grad_(options.word_vectors is None)
        width = 2 * options.text_hidden
        self.lstm = nn.LSTM(size, options.text_hidden, batch_first=True, bidirectional=True)
        self.project = nn.Linear(width, width)
        self.dense = nn.Linear(width, options.text_dense)
        self.activate = nn.ReLU() if options.text_activation == "relu" else nn.Identity()
        self.dropout = nn.Dropout(options.dropout)
        self.absent_D = nn.Parameter(torch.randn(options.text_dense) * 0.02)

    def attention(self, states_BTH: Tensor, mask_BT: Tensor) -> Tensor:
        """T_f [B, H] from the BiLSTM's states."""
        scores_BTH = torch.tanh(self.project(states_BTH)).float()
        weights_BTH = scores_BTH.masked_fill(~mask_BT[..., None], torch.finfo(torch.float32).min).softmax(dim=1)
        return (weights_BTH * states_BTH).sum(dim=1)

    def forward(self, batch: PostBatch) -> Tensor:
        if self.words is not None:
            assert batch.token_ids_BT is not None
            assert batch.token_mask_BT is not None
            inputs_BTE, mask_BT = self.words(batch.token_ids_BT), batch.token_mask_BT
        else:
            assert batch.text_states_BSD is not None
            assert batch.text_states_mask_BS is not None
            inputs_BTE, mask_BT = batch.text_states_BSD, batch.text_states_mask_BS
        if not mask_BT.shape[1]:  # no caption in the batch: an LSTM reads no sequence of no steps
            return self.absent_D.expand(len(mask_BT), -1)
        lengths_B = mask_BT.sum(dim=1)
        packed = pack_padded_sequence(
            self.dropout(inputs_BTE), lengths_B.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        states_BTH, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=mask_BT.shape[1])
        text_BE = self.activate(self.dense(self.attention(states_BTH, mask_BT)))
        return torch.where((lengths_B > 0)[:, None], text_BE, self.absent_D)


class GRUCell(nn.Module):
    """Eq. 14-17 as printed: no biases, and the reset gate inside U (torch's cell puts it outside)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.reset_and_update = nn.Linear(inputs + hidden, 2 * hidden, bias=False)
        self.candidate = nn.Linear(inputs + hidden, hidden, bias=False)

    def forward(self, inputs_BE: Tensor, hidden_BH: Tensor) -> Tensor:
        gates_BG = torch.sigmoid(self.reset_and_update(torch.cat([inputs_BE, hidden_BH], dim=-1)))
        reset_BH, update_BH = gates_BG.chunk(2, dim=-1)
        candidate_BH = torch.tanh(self.candidate(torch.cat([inputs_BE, reset_BH * hidden_BH], dim=-1)))
        return (1 - update_BH) * hidden_BH + update_BH * candidate_BH


class DecoderState(NamedTuple):
    merged_BE: Tensor
    hidden_BH: Tensor


@register
class Amnn(SequenceModel):
    name: ClassVar[str] = "amnn"
    paper: ClassVar[str] = "AMNN (Yang et al. 2020): CNN-LSTM and BiLSTM encoders with attention, GRU decoder of tags."
    Options: ClassVar[type[ModelOptions]] = AmnnOptions
    examples: ClassVar = {
        "default": TINY,
        "grid": TINY | {"attention": "grid", "merge": "add", "context": "every", "ranking": "marginal"},
        "encoder": TINY | {"text_input": "encoder", "feedback": "none", "decoding": "beam"},
        "normalised": TINY | {"attention": "grid", "normalise_regions": True, "output_bias": True},
        "image": TINY | {"inputs": ["image"]},
        "caption": TINY | {"inputs": ["caption"]},
    }

    def __init__(self, options: AmnnOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.settings = options
        self.image = ImageEncoder(options, spec) if "image" in options.inputs else None
        self.text = TextEncoder(options, spec) if "caption" in options.inputs else None
        image_out = self.image.out if self.image else 0
        text_out = options.text_dense if self.text else 0
        self.reduce = nn.Linear(image_out, text_out) if options.merge == "add" and image_out and text_out else None
        merged = (text_out or image_out) if options.merge == "add" else image_out + text_out
        self.merge = nn.Linear(merged, options.decoder_input_size)
        self.tags = (
            nn.Embedding(spec.vocabulary_size + 1, options.decoder_input_size)
            if options.feedback == "previous"
            else None
        )
        self.cell = GRUCell(options.decoder_input_size, options.decoder_hidden)
        self.output = nn.Linear(options.decoder_hidden, spec.vocabulary_size + 1, bias=options.output_bias)
        self.dropout = nn.Dropout(options.dropout)
        self.apply(initialise_glorot)

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        assert isinstance(options, AmnnOptions)
        names = set()
        if "image" in options.inputs:
            names.add("image_vector" if options.attention == "literal" else "image_grid")
        if "caption" in options.inputs:
            names.add("tokens" if options.text_input == "words" else "text_states")
        return frozenset(names)

    @classmethod
    def tokenizer(cls, options: ModelOptions) -> TokenizerSpec | None:
        assert isinstance(options, AmnnOptions)
        if options.text_input != "words" or "caption" not in options.inputs:
            return None
        return TokenizerSpec("words", options.max_tokens, min_count=options.min_word_count, stop_words=True)

    def check_start(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None = None) -> None:
        """Whether `word_vectors` is a file of vectors of the right size."""
        if self.settings.word_vectors and self.text is not None:
            check_word_vectors(self.settings.word_vectors, self.settings.embedding)

    def initialise(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None = None) -> None:
        """Read `word_vectors` for the words of the tokenizer; words that the file lacks stay as drawn."""
        path = self.settings.word_vectors
        if path and tokenizer is not None and self.text is not None and self.text.words is not None:
            copy_word_vectors(self.text.words.weight, path, tokenizer.words())

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(self.output, "next")] if self.settings.output_bias else []

    def features(self, batch: PostBatch) -> Tensor:
        """x_all [B, merged]: what the encoders make of a post (the features of the article's SVM and neighbour baselines)."""
        parts: list[Tensor] = [branch(batch) for branch in (self.image, self.text) if branch is not None]
        if self.reduce is not None:
            image_BE, text_BE = parts
            parts = [self.reduce(image_BE) + text_BE]
        return torch.cat(parts, dim=-1)

    def looks_at(self, batch: PostBatch) -> Tensor | None:
        """The shares of the regions, with `attention = "grid"`."""
        if self.image is None or self.image.literal:
            return None
        return self.image.weights(self.image.states(batch)).squeeze(-1)

    def start(self, batch: PostBatch) -> DecoderState:
        merged_BE = self.merge(self.dropout(self.features(batch)))
        return DecoderState(merged_BE, merged_BE.new_zeros(len(batch), self.settings.decoder_hidden))

    def step(self, previous_B: Tensor | None, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """logits_BU over END and the tags, after the sign of the step before (None: the first); taught by eq. 19."""
        inputs_BE = state.merged_BE
        if previous_B is not None and self.tags is not None:
            tag_BE = self.dropout(self.tags(previous_B))
            inputs_BE = inputs_BE + tag_BE if self.settings.context == "every" else tag_BE
        hidden_BH = self.cell(inputs_BE, state.hidden_BH)
        return self.output(self.dropout(hidden_BH)), DecoderState(state.merged_BE, hidden_BH)
