"""VGG-Object + VGG-Scene: what is in the picture and where it was taken, two vectors side by side. Image alone.

Minseok Park, Hanxiang Li, Junmo Kim: HARRISON: A Benchmark on HAshtag Recommendation for Real-world Images in Social
Networks, 2016, https://arxiv.org/abs/1605.05054. A baseline of article 003.

    p = sigmoid(MLP([v_object ; v_scene]))

The two vectors come from two VGG-16, one trained on objects (`encoders.image`), one on places (`encoders.image_second`).
What differs here: the size of the hidden layer is ours; where there is one encoder alone, another vector of it can stand
in for the scene's (`scene`). A missing image is one learned vector.

(Articles by number: docs/models.md.)
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch, Targets
from hashtag_core.models.base import InputSpec, ModelOptions, NeuralModel
from hashtag_core.models.layers import absent_embedding
from hashtag_core.models.long_tail import LongTailOptions, MultiLabelLoss
from hashtag_core.models.objectives import Output
from hashtag_core.models.registry import register

TINY = {"hidden": 32, "dropout": 0.1}


class VggObjectSceneOptions(LongTailOptions):
    reads: ClassVar = frozenset({"image"})

    scene: Literal["second", "grid_max", "grid_mean"] = "grid_max"
    """`second`: the second image encoder's vector (the paper); `grid_max`, `grid_mean`: the greatest or the mean value of
    each feature over the regions of the one encoder."""
    hidden: int = Field(4096, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)


@register
class VggObjectScene(NeuralModel):
    name: ClassVar[str] = "vgg_object_scene"
    paper: ClassVar[str] = "Park et al. 2016 (HARRISON): two visual vectors concatenated, multi-label MLP. Image alone."
    objective: ClassVar = "multi_label"
    Options: ClassVar[type[ModelOptions]] = VggObjectSceneOptions
    examples: ClassVar = {
        "default": TINY,
        "grid_mean": TINY | {"scene": "grid_mean"},
        "second": TINY | {"scene": "second"},
    }

    def __init__(self, options: VggObjectSceneOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self._scene = options.scene
        width = spec.image_dim + (spec.image_second_dim if options.scene == "second" else spec.image_dim)
        self.absent_D = absent_embedding(width)
        self.judge = MultiLabelLoss(options, spec.vocabulary_size)
        self.classify = nn.Sequential(
            nn.Linear(width, options.hidden),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(options.hidden, spec.vocabulary_size),
        )

    @classmethod
    def needs(cls, options: ModelOptions) -> frozenset[str]:
        assert isinstance(options, VggObjectSceneOptions)
        return frozenset({"image_vector", "image_vector_second" if options.scene == "second" else "image_grid"})

    def outputs(self) -> Sequence[tuple[nn.Linear, Output]]:
        return [(cast(nn.Linear, self.classify[-1]), "each")]

    def features(self, batch: PostBatch) -> Tensor:
        """[v_object ; v_scene], features_BD."""
        assert batch.image_vector_BD is not None
        scene_BD = batch.image_vector_second_BD
        if self._scene != "second":
            assert batch.image_grid_BRD is not None
            scene_BD = batch.image_grid_BRD.amax(1) if self._scene == "grid_max" else batch.image_grid_BRD.mean(1)
        assert scene_BD is not None
        seen_BD = torch.cat([batch.image_vector_BD, scene_BD], dim=1)
        return torch.where(batch.image_present_B[:, None], seen_BD, self.absent_D)

    def loss(self, batch: PostBatch, targets: Targets) -> Tensor:
        loss: Tensor = self.judge(self.classify(self.features(batch)), targets.labels_BV)
        return loss

    def score(self, batch: PostBatch) -> Tensor:
        """The probability of each tag."""
        return torch.sigmoid(self.classify(self.features(batch)).float())
