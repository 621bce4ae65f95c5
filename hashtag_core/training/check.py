"""What can be found out of a model before its features are encoded and a worker is started.

The model is built on the meta device, which costs no memory, and every file that it starts from is opened.
"""

from typing import TYPE_CHECKING

import torch

from hashtag_core.data.tokens import CaptionTokenizer
from hashtag_core.encoders import Encoders
from hashtag_core.errors import ConfigError
from hashtag_core.models.base import InputSpec, NeuralModel
from hashtag_core.models.registry import create_model
from hashtag_core.models.tuned import with_encoder

if TYPE_CHECKING:
    from hashtag_core.training.plan import TrainPlan

UNKNOWN_WORDS = 2
"""Size of a `words` tokenizer that is not built yet: padding and the unknown word."""


def tokenizer_of(plan: "TrainPlan", encoders: Encoders, *, build: bool) -> CaptionTokenizer | None:
    """The family's tokenizer. One of words is built on the train captions; with `build` False it is left out (None)."""
    if plan.base is not None:
        return plan.base.tokenizer
    wanted = plan.family.tokenizer(plan.options)
    if wanted is None:
        return None
    if wanted.kind == "wordpiece":
        return CaptionTokenizer.from_file(encoders.text_tokenizer_file, wanted.max_tokens)
    if not build:
        return None
    captions = (
        caption for table in plan.dataset.read("train", ["caption"]) for caption in table["caption"].to_pylist()
    )
    return CaptionTokenizer.build_words(captions, wanted)


def input_spec(plan: "TrainPlan", encoders: Encoders, tokenizer: CaptionTokenizer | None) -> InputSpec:
    """The sizes that the model is built for."""
    reads = plan.family.tokenizer(plan.options) is not None
    return InputSpec(
        vocabulary_size=len(plan.dataset.vocabulary),
        image_dim=encoders.image_dim,
        image_second_dim=encoders.image_second_dim,
        text_dim=encoders.text_dim,
        regions=encoders.regions,
        token_vocabulary_size=tokenizer.size if tokenizer else UNKNOWN_WORDS * reads,
        pad_token_id=tokenizer.pad_id if tokenizer else 0,
        max_tokens=tokenizer.max_tokens if tokenizer else 0,
    )


def check_model(plan: "TrainPlan", encoders: Encoders) -> int:
    """Build the model on the meta device and open every file that it starts from; returns its number of parameters, the
    embeddings of words that are not counted yet left out.

    ConfigError, NotFoundError or IntegrityError where a worker would meet it, hours later; ConfigError too for a block that would
    be freed after the last epoch.
    """
    tokenizer = tokenizer_of(plan, encoders, build=False)
    spec = input_spec(plan, encoders, tokenizer)
    with torch.device("meta"):
        model = create_model(plan.recipe.model.family, spec, plan.options, plan.dataset.vocabulary.tags)
    model = with_encoder(model, encoders.tops())
    if isinstance(model, NeuralModel):
        _check_unfreezing(plan, model)
        if plan.resumed is None:
            model.check_start(encoders.text_folder, tokenizer)
    return sum(parameter.numel() for parameter in model.parameters())


def _check_unfreezing(plan: "TrainPlan", model: NeuralModel) -> None:
    every, epochs = plan.recipe.encoders.unfreeze_epochs, plan.recipe.training.epochs
    last = max(model.freed_after(every).values(), default=0)
    if last >= epochs:
        raise ConfigError(
            f"encoders.unfreeze_epochs: {every} epochs a block free the lowest of encoders.finetune = "
            f'"{plan.recipe.encoders.finetune}" after {last}, and training.epochs is {epochs}'
        )
