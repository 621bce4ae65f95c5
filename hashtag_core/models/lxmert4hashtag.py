"""LXMERT4Hashtag: caption and image regions through a cross-modality transformer, a multi-label head on [CLS].

M. M. Y. Khalil, Q. Wang, B. Chen, W. Wang: Cross-modality representation learning from transformer for hashtag
prediction, Journal of Big Data 10:148, 2023 (articles 000 and 001). The transformer is `transformers`' LxmertModel.

    words    h_i = LayerNorm(WordEmbed(w_i) + IdxEmbed(u_i))
    regions  f^_j = LayerNorm(W_F f_j + b_F)    p^_j = LayerNorm(W_P p_j + b_P)    v_j = (p^_j + f^_j) / 2
    encoders l language, r object-relationship and x cross-modality layers (9, 5, 5)
    head     tags = Linear(GELU -> LayerNorm (Linear [CLS])), BCE summed over tags

What differs here, or is left open there:
- [CLS] goes through LXMERT's tanh pooler, as its question-answering head has it; `cls = "raw"` leaves it out.
- `start = "hf:unc-nlp/lxmert-base-uncased"` (a name or a folder) starts from pretrained LXMERT as the article does; where the
  regions are not 2048 wide, their projection starts anew. `start = "text_encoder"` (ours, for small models): embeddings and language layers are those
  of the frozen text encoder's BERT. `start = "none"`: nothing is pretrained. Everything is fine-tuned in each case.
- A missing image is one learned region, all others masked; a missing caption is one learned word in the place of [CLS].

(Articles by number: docs/models.md.)
"""

import logging
from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.data.tokens import CaptionTokenizer, TokenizerSpec
from hashtag_core.errors import ConfigError
from hashtag_core.models.base import InputSpec, Modality, ModelOptions, NeuralModel
from hashtag_core.models.long_tail import LongTailOptions, MultiLabelLoss
from hashtag_core.models.objectives import Output
from hashtag_core.models.pretrained import read_transformers, require_same, require_same_words
from hashtag_core.models.registry import register

logger = logging.getLogger(__name__)

REGION_PROJECTION = "encoder.visn_fc.visn_fc."
REGION_WIDTH = f"{REGION_PROJECTION}weight"
"""Of W_F: the one matrix that may have another width than the source's."""
LANGUAGE = ("embeddings.", "encoder.layer.")

TINY = {
    "hidden": 16,
    "heads": 2,
    "intermediate": 32,
    "language_layers": 1,
    "relation_layers": 1,
    "cross_layers": 1,
    "max_tokens": 16,
}


class Lxmert4HashtagOptions(LongTailOptions):
    reads: ClassVar[frozenset[Modality]] = frozenset({"image", "caption"})
    hidden: int = Field(768, ge=1)
    heads: int = Field(12, ge=1)
    intermediate: int = Field(3072, ge=1)
    language_layers: int = Field(9, ge=1)
    relation_layers: int = Field(5, ge=0)
    cross_layers: int = Field(5, ge=1)
    max_tokens: int = Field(128, ge=2, le=512)
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of hidden states and of attention weights."""
    head_dropout: float = Field(0.0, ge=0, lt=1)
    cls: Literal["pooler", "raw"] = "pooler"
    start: str = "none"

    @field_validator("start")
    @classmethod
    def _known_start(cls, value: str) -> str:
        if value not in ("none", "text_encoder") and not value.startswith("hf:"):
            raise ValueError("'none', 'text_encoder' or 'hf:<name or folder>' expected")
        return value

    @model_validator(mode="after")
    def _divides(self) -> "Lxmert4HashtagOptions":
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} is no multiple of heads = {self.heads}")
        return self


@register
class Lxmert4Hashtag(NeuralModel):
    name: ClassVar[str] = "lxmert4hashtag"
    paper: ClassVar[str] = (
        "LXMERT4Hashtag (Khalil et al. 2023): cross-modality transformer over word pieces and regions, multi-label head."
    )
    objective: ClassVar = "multi_label"
    Options: ClassVar[type[ModelOptions]] = Lxmert4HashtagOptions
    examples: ClassVar = {"default": TINY, "raw": TINY | {"cls": "raw", "relation_layers": 0}}

    def __init__(self, options: Lxmert4HashtagOptions, spec: InputSpec) -> None:
        from transformers import LxmertConfig, LxmertModel  # takes seconds: only where such a model is built

        super().__init__(options, spec)
        self.settings = options
        hidden = options.hidden
        self.lxmert = LxmertModel(
            LxmertConfig(
                vocab_size=spec.token_vocabulary_size,
                hidden_size=hidden,
                num_attention_heads=options.heads,
                intermediate_size=options.intermediate,
                l_layers=options.language_layers,
                r_layers=options.relation_layers,
                x_layers=options.cross_layers,
                visual_feat_dim=spec.image_dim,
                visual_pos_dim=4,
                hidden_dropout_prob=options.dropout,
                attention_probs_dropout_prob=options.dropout,
            )
        )
        self.absent_region_D = nn.Parameter(torch.randn(spec.image_dim))
        self.absent_caption_D = nn.Parameter(torch.randn(hidden) * 0.02)
        output = nn.Linear(2 * hidden, spec.vocabulary_size)
        self.judge = MultiLabelLoss(options, spec.vocabulary_size)
        dropout = nn.Dropout(options.head_dropout)
        self.head = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.LayerNorm(2 * hidden), dropout, output)
        for name, parameter in self.lxmert.named_parameters():
            parameter.requires_grad_(not self._is_idle(name))

    def _is_idle(self, name: str) -> bool:
        """Parameters of LxmertModel that [CLS] does not depend on: the last layer's visual side, the sentence types (one, at padding index), the pooler if unused."""
        last = f"encoder.x_layers.{self.settings.cross_layers - 1}.visn_"
        return name.startswith((last, "embeddings.token_type")) or (
            self.settings.cls == "raw" and name.startswith("pooler.")
        )

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        return frozenset({"tokens", "image_grid"})

    @classmethod
    def tokenizer(cls, options: ModelOptions) -> TokenizerSpec | None:
        assert isinstance(options, Lxmert4HashtagOptions)
        return TokenizerSpec("wordpiece", options.max_tokens)

    def pretrained_parameters(self) -> set[str]:
        names = {f"lxmert.{name}" for name, _ in self.lxmert.named_parameters()}
        if self.settings.start == "none":
            return set()
        if self.settings.start == "text_encoder":
            return {name for name in names if name.removeprefix("lxmert.").startswith(LANGUAGE)}
        return {name for name in names if not name.startswith(f"lxmert.{REGION_PROJECTION}")}

    def check_start(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None = None) -> None:
        self._start(encoder_folder, tokenizer)

    def initialise(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None = None) -> None:
        """Copy the weights that `start` names, all of them."""
        own = self.lxmert.state_dict()
        for key, value in self._start(encoder_folder, tokenizer).items():
            own[key].copy_(value)

    def _start(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None) -> dict[str, Tensor]:
        """The weights to start from, under their names in `self.lxmert`; NotFoundError, ConfigError or IntegrityError where
        they are not those of such a model."""
        match self.settings.start:
            case "none":
                return {}
            case "text_encoder":
                if encoder_folder is None:
                    raise ConfigError("model.start = 'text_encoder': the text encoder has no folder of weights")
                return self._language(encoder_folder)
            case name:
                return self._whole(name.removeprefix("hf:"), tokenizer)

    def _whole(self, name: str, tokenizer: CaptionTokenizer | None) -> dict[str, Tensor]:
        from transformers import LxmertModel

        source = read_transformers(LxmertModel, name, "lxmert", "model.start")
        require_same_words(tokenizer, name, "model.start")
        own = self.lxmert.state_dict()
        keys = require_same(own, source, f"model.start: {name!r}", lambda key: key == REGION_WIDTH)
        if REGION_WIDTH not in keys:
            logger.info("regions are not as wide as in %s: their projection starts anew", name)
            keys = [key for key in keys if not key.startswith(REGION_PROJECTION)]
        return {key: source[key] for key in keys}

    def _language(self, folder: str) -> dict[str, Tensor]:
        from transformers import AutoConfig, BertModel

        theirs = read_transformers(BertModel, folder, "bert", "model.start = 'text_encoder'")
        layers, found = self.settings.language_layers, AutoConfig.from_pretrained(folder).num_hidden_layers
        if found < layers:
            raise ConfigError(f"model.language_layers: {folder!r} has {found} layers, found {layers}")
        own = {key: value for key, value in self.lxmert.state_dict().items() if key.startswith(LANGUAGE)}
        source = {key: value for key, value in theirs.items() if key in own}
        return {key: source[key] for key in require_same(own, source, f"model.start: {folder!r}", lambda _: False)}

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(cast(nn.Linear, self.head[-1]), "each")]

    def logits(self, batch: PostBatch) -> Tensor:
        """logits_BV."""
        assert batch.token_ids_BT is not None
        assert batch.token_mask_BT is not None
        assert batch.image_grid_BRD is not None
        assert batch.boxes_BR4 is not None
        image_B11 = batch.image_present_B[:, None, None]
        regions_BRD = torch.where(image_B11, batch.image_grid_BRD, self.absent_region_D)
        boxes_BR4 = torch.where(image_B11, batch.boxes_BR4, batch.boxes_BR4.new_tensor([0.0, 0.0, 1.0, 1.0]))
        region_mask_BR = batch.image_present_B[:, None].repeat(1, regions_BRD.shape[1])
        region_mask_BR[:, 0] = True
        words_BTH = self.lxmert.embeddings.word_embeddings(batch.token_ids_BT)
        text_B = batch.token_mask_BT.any(dim=1)
        words_BTH = torch.where(text_B[:, None, None], words_BTH, self.absent_caption_D)
        token_mask_BT = batch.token_mask_BT.clone()
        token_mask_BT[:, 0] = True
        output = self.lxmert(
            inputs_embeds=words_BTH,
            attention_mask=token_mask_BT,
            visual_feats=regions_BRD,
            visual_pos=boxes_BR4,
            visual_attention_mask=region_mask_BR,
        )
        cls_BH = output.pooled_output if self.settings.cls == "pooler" else output.language_output[:, 0]
        logits_BV: Tensor = self.head(cls_BH)
        return logits_BV

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        loss: Tensor = self.judge(self.logits(batch), targets.labels_BV)
        return loss

    def score(self, batch: PostBatch) -> Tensor:
        return torch.sigmoid(self.logits(batch).float())
