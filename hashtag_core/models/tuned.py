"""A family behind encoders that are trained with it: what it reads is computed from trunks, batch by batch."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.data.tokens import CaptionTokenizer
from hashtag_core.errors import ConfigError
from hashtag_core.json_values import JsonObject
from hashtag_core.models.base import FitSource, NeuralModel, TagModel
from hashtag_core.models.objectives import Output


class TunedModel(NeuralModel):
    """`model`, fed by `encoder`: a module that takes a batch with trunks and gives the batch with the features of `model`.

    Its parameters are saved with the model's. `rate_scales` of the encoder says which share of the encoder's learning rate each
    of its parameters takes.
    """

    def __init__(self, model: NeuralModel, encoder: nn.Module) -> None:
        super().__init__(model.options, model.spec)
        self.model, self.encoder = model, encoder
        for name in ("name", "paper", "objective", "needs", "tokenizer"):
            setattr(self, name, getattr(model, name))

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        """Of the family, on the features of the trained encoders."""
        return self.model.loss(self.encoder(batch), targets)

    def score(self, batch: PostBatch) -> Tensor:
        """As `loss`."""
        return self.model.score(self.encoder(batch))

    def name_tags(self, tags: Sequence[str]) -> None:
        """Of the family."""
        self.model.name_tags(tags)

    def extra_state(self) -> JsonObject:
        """Of the family."""
        return self.model.extra_state()

    def load_extra_state(self, values: JsonObject) -> None:
        """Of the family."""
        self.model.load_extra_state(values)

    def pretrained_parameters(self) -> set[str]:
        """Those of the encoder, and of the family its own."""
        own = {f"model.{name}" for name in self.model.pretrained_parameters()}
        return own | {f"encoder.{name}" for name, value in self.encoder.named_parameters() if value.requires_grad}

    def rate_scales(self) -> dict[str, float]:
        """Share of the learning rate, for parameters that take less than all of it."""
        scales = cast(dict[str, float], cast(Any, self.encoder).rate_scales())
        return {f"encoder.{name}": scale for name, scale in scales.items()}

    def freed_after(self, unfreeze_epochs: int) -> dict[str, int]:
        """Of the encoder, its top blocks first (Howard & Ruder 2018, ULMFiT)."""
        levels = cast(dict[str, int], cast(Any, self.encoder).levels())
        return {
            f"encoder.{name}": level * unfreeze_epochs for name, level in levels.items() if level and unfreeze_epochs
        }

    def check_start(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None = None) -> None:
        """Of the family."""
        self.model.check_start(encoder_folder, tokenizer)

    def initialise(self, encoder_folder: str | None, tokenizer: CaptionTokenizer | None = None) -> None:
        """Of the family; the encoder is pretrained as it is."""
        self.model.initialise(encoder_folder, tokenizer)

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        """Of the family."""
        return self.model.outputs()

    def learn_counts(self, counts_V: Tensor, posts: int) -> None:
        """Of the family."""
        self.model.learn_counts(counts_V, posts)

    def prepare(self, source: FitSource, *, seed: int) -> None:
        """Of the family."""
        self.model.prepare(_Encoded(source, self.encoder), seed=seed)

    def calibrate(self, source: FitSource) -> dict[str, float]:
        """Of the family."""
        return self.model.calibrate(_Encoded(source, self.encoder))


class _Encoded:
    """Batches with the features of the encoder, on its device."""

    def __init__(self, source: FitSource, encoder: nn.Module) -> None:
        self.vocabulary_size, self.posts = source.vocabulary_size, source.posts
        self._source, self._encoder = source, encoder

    def batches(self, batch_size: int) -> Iterator[tuple[PostBatch, list[list[int]]]]:
        device = next(self._encoder.parameters()).device
        for batch, tags in self._source.batches(batch_size):
            with torch.no_grad():
                yield self._encoder(batch.to(device)), tags


def with_encoder(model: TagModel, encoder: nn.Module | None) -> TagModel:
    """The model, behind the encoder if there is one. ConfigError for a family that is not taught by gradient."""
    if encoder is None:
        return model
    if not isinstance(model, NeuralModel):
        raise ConfigError(
            f"encoders.finetune: {model.name} is fitted in closed form, and no gradient reaches its encoders; "
            'take "none", or a family that is taught by gradient'
        )
    return TunedModel(model, encoder)
