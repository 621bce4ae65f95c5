"""What every model family is: `TagModel`, taught by gradient (`NeuralModel`) or fitted once (`FittedModel`)."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from hashtag_core.config import Section
from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.data.tokens import CaptionTokenizer, TokenizerSpec
from hashtag_core.json_values import JsonObject
from hashtag_core.models.explanation import Explanation
from hashtag_core.models.objectives import Output, prior_logits

__all__ = [
    "BuiltOnModel",
    "FamilyCard",
    "FitSource",
    "FittedModel",
    "InputSpec",
    "Modality",
    "ModelOptions",
    "NeuralModel",
    "TagModel",
    "TokenizerSpec",
]

Modality = Literal["image", "caption", "history"]


class ModelOptions(Section):
    """Options that every family has. A family adds its own in a subclass."""

    reads: ClassVar[frozenset[Modality]] = frozenset({"image", "caption", "history"})
    """Modalities that the family can make use of."""

    inputs: list[Modality] = ["image", "caption", "history"]
    """Modalities the model may see; one left out is treated as absent everywhere (the ablations)."""

    @model_validator(mode="after")
    def _sees_something(self) -> Self:
        if self.reads.isdisjoint(self.inputs):
            raise ValueError(f"inputs: name at least one of {', '.join(map(repr, sorted(self.reads)))}")
        return self


@dataclass(frozen=True)
class InputSpec:
    """The sizes that a model is built for; saved in `model.json`."""

    vocabulary_size: int
    image_dim: int = 0
    image_second_dim: int = 0
    """Of the second image encoder's vector; 0 where there is none."""
    text_dim: int = 0
    regions: int = 36
    token_vocabulary_size: int = 0
    """Ids of the family's tokenizer; 0 where it has none."""
    pad_token_id: int = 0
    max_tokens: int = 0


class TagModel(nn.Module):
    """A model that ranks the tags of the vocabulary for posts.

    Subclasses set `name`, `paper` and `Options`, and are made known by `@register` (see `registry`).
    `score` returns one number in [0, 1] for each tag, higher is better; ties are broken by index, and the vocabulary is
    sorted by falling train count, then by name.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    """Citation and what differs here in a line."""
    Options: ClassVar[type[ModelOptions]] = ModelOptions
    explains: ClassVar[bool] = False
    """Whether `explain` says where a tag's score comes from."""
    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}}
    """Options of tiny instances, by a short name: one for each path through the family. `tests/models` runs its whole suite on each."""

    def __init__(self, options: ModelOptions, spec: InputSpec) -> None:
        super().__init__()
        self.options = options
        self.spec = spec

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        """Which of `batches.FEATURES` the model reads."""
        return frozenset()

    @classmethod
    def tokenizer(cls, options: ModelOptions) -> TokenizerSpec | None:
        """The tokenizer of its own, None for a family that reads no token ids."""
        return None

    @abstractmethod
    def score(self, batch: PostBatch) -> Tensor:
        """scores_BV in [0, 1], float32. Called in eval mode without gradients."""

    def explain(self, batch: PostBatch, tags_BT: Tensor) -> Explanation:
        """Where the scores of those tags of each post come from, exactly. Called as `score` is, where `explains` is True."""
        raise NotImplementedError(f"{self.name} does not explain its scores")

    def looks_at(self, batch: PostBatch) -> Tensor | None:
        """weights_BR: how much of its attention a post gives to each region of its picture, a sum of 1; None for a family, or
        options, without attention over regions. A post without a picture has weights that mean nothing. Called as `score` is."""
        return None

    def name_tags(self, tags: Sequence[str]) -> None:
        """Learn what the tags are called (the vocabulary, in its order); called once, before the model is taught.

        A model that is loaded is not told again: what it learned here belongs into `extra_state`.
        """
        return

    @classmethod
    def reads_tag_text(cls, options: ModelOptions) -> bool:
        """Whether `take_tag_text` wants to be called."""
        return False

    def take_tag_text(self, vectors_VD: Tensor) -> None:
        """Learn what the tags say: their words through the text encoder, pooled, in the order of the vocabulary.

        Called once, before the model is fitted, for a family that asks for it; what is kept belongs into the weights.
        """
        return

    def calibrate(self, source: "FitSource") -> dict[str, float]:
        """Choose on the validation split what the train posts do not teach (a weight between two rankings, how sure the
        model may be), once, with the weights of the best epoch, before the model is saved; returns figures worth logging.

        Called in eval mode without gradients, on the device of the model (the batches are not there yet). What it sets
        are buffers.
        """
        return {}

    def add_tags(self, vectors_UD: Tensor) -> None:
        """Rank U tags more, of which nothing but their words are known, after those of the vocabulary; for a family whose
        `reads_tag_text` is True, once it is fitted.

        From here on `score` gives U columns more, and tag indices of histories may name them.
        """
        raise NotImplementedError(f"{self.name} does not know tags by their words")

    def extra_state(self) -> JsonObject:
        """State that is no tensor (the words of a vectoriser, user ids): JSON-able, saved as `extra.json`."""
        return {}

    def load_extra_state(self, values: JsonObject) -> None:
        """Take back what `extra_state` gave; called before the weights are loaded."""
        return


class NeuralModel(TagModel):
    """Taught by gradient descent."""

    objective: ClassVar[Literal["multi_label", "softmax", "sequence", "hybrid", "metric"]]

    @abstractmethod
    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        """Scalar loss, the mean over the posts of the batch. A post without a tag in the vocabulary contributes what the objective says of it, never NaN."""

    def forward(self, batch: PostBatch, targets: Targets) -> Tensor:
        """`loss`, under the name that DistributedDataParallel wraps."""
        return self.loss(batch, targets)

    def pretrained_parameters(self) -> set[str]:
        """Names of parameters that start pretrained (they take `encoder_learning_rate`)."""
        return set()

    def rate_scales(self) -> dict[str, float]:
        """Share of their learning rate that parameters take, by name; all of it for those that are not told."""
        return {}

    def freed_after(self, unfreeze_epochs: int) -> dict[str, int]:
        """Of parameters that do not learn from the first epoch on, by name, the epoch (from 0) from which they do, where one block
        more of an encoder is freed every so many epochs."""
        return {}

    def check_start(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None = None) -> None:
        """Refuse now whatever `initialise`, with the same arguments, would refuse in a worker.

        The model may be on the meta device; files are opened, nothing is copied.
        """
        return

    def initialise(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None = None) -> None:
        """Copy pretrained weights in, once, before training starts (never when a model folder is loaded).

        `encoder_folder` is the text encoder's transformers folder, `tokenizer` the family's own (for word vectors).
        """
        return

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        """The layers that give the tags' logits, and what those stand for."""
        return ()

    def begin_with(self, counts_V: Tensor, posts: int) -> None:
        """Set the biases of `outputs` to how many of the train posts have each tag, once, before training starts.

        Else the first epochs go into what is known: with a chance of one half for each of a thousand tags.
        """
        for layer, output in self.outputs():
            with torch.no_grad():
                layer.bias.copy_(prior_logits(output, counts_V, posts))

    def learn_counts(self, counts_V: Tensor, posts: int) -> None:
        """Take how many of the train posts have each tag, for a loss that weighs tags; called before each start of training,
        a resumed one too."""
        for module in self.children():
            learn = getattr(module, "learn_counts", None)
            if callable(learn):
                learn(counts_V, posts)

    def prepare(self, source: "FitSource", *, seed: int) -> None:
        """Fit what is not taught by gradient (a topic model), once, before training starts, on one worker alone.

        What it sets are buffers whose shapes follow from options and `spec`: a checkpoint holds them, and
        DistributedDataParallel sends them to the other workers.
        """
        return


class FitSource(Protocol):
    """The train split, as `FittedModel.fit` reads it: several passes, in a fixed order, in bounded memory."""

    vocabulary_size: int
    posts: int

    def batches(self, batch_size: int) -> Iterator[tuple[PostBatch, list[list[int]]]]:
        """Inputs and each post's vocabulary indices in the author's order."""
        ...


class FittedModel(TagModel):
    """Fitted once, in closed form or by storing the train posts; no epochs.

    State is buffers (they make `weights.safetensors`), set by `fit`; `load_state_dict` takes whatever shapes the file has.
    """

    @abstractmethod
    def fit(self, source: FitSource, *, seed: int) -> dict[str, float]:
        """Fit on the train split; returns figures worth logging."""

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):  # type: ignore[no-untyped-def]
        for key, value in state_dict.items():
            owner_name, _, leaf = key.rpartition(".")
            owner = self.get_submodule(owner_name)
            if leaf in owner._buffers:
                owner.register_buffer(leaf, torch.empty_like(value))
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


class BuiltOnModel(TagModel):
    """A family whose options may ask for a trained model of another family, a part of which becomes its own.

    That model settles the tokenizer, and must have been trained on the same encoders and caption rules.
    """

    @classmethod
    @abstractmethod
    def base_model(cls, options: ModelOptions) -> str | None:
        """A model folder or a `models:/` URI; None where none is asked for. ConfigError where one is, but not named."""

    @classmethod
    @abstractmethod
    def on_base(cls, options: ModelOptions, base: TagModel) -> ModelOptions:
        """The options, completed by those of `base`; ConfigError for a model of the wrong kind."""

    @abstractmethod
    def take_base(self, base: TagModel) -> None:
        """Copy what is needed of `base`, before `fit` or the first epoch."""


@dataclass(frozen=True)
class FamilyCard:
    """A line of `list_models(detail=True)`."""

    name: str
    kind: Literal["neural", "fitted"]
    paper: str
    needs: frozenset[str] = field(default_factory=frozenset)
