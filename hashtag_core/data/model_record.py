"""What `model.json` holds: a model, what it was made with, and the files beside it."""

from typing import TypedDict

from hashtag_core.data.dataset import Split
from hashtag_core.data.history import HistoryRecord
from hashtag_core.json_values import JsonObject


class EncoderIdentity(TypedDict, total=False):
    """What an encoder's features depend on; each kind of encoder has some of these."""

    id: str
    revision: str
    dim: int
    side_px: int
    max_tokens: int
    regions: int
    region_source: str
    finetune: str


class EncodersIdentity(TypedDict, total=False):
    """The encoders that a model reads: equal identities mean equal features (to float16 rounding)."""

    image: EncoderIdentity
    regions: EncoderIdentity
    image_second: EncoderIdentity
    text: EncoderIdentity


class TrainedOn(TypedDict, total=False):
    """The dataset that a model learned from; posts by split."""

    uri: str
    content_hash: str
    posts: dict[Split, int]


class BaseModelRecord(TypedDict):
    """The model that a model is built on."""

    family: str
    version: str


class CodeRecord(TypedDict):
    """The commit that trained a model, and whether files were changed since (`true`, `false`, `unknown`)."""

    commit: str
    dirty: str


class ModelInfo(TypedDict, total=False):
    """What training tells of a model. Every key may be absent: a folder made by hand is a model too."""

    name: str
    recipe: JsonObject
    """As it was: an older release had other keys."""
    encoders: EncodersIdentity
    captions: JsonObject
    """The section of the recipe that the dataset was prepared with."""
    dataset: TrainedOn
    run_id: str
    code: CodeRecord
    base: BaseModelRecord
    k: int
    metrics: dict[str, float]


class ModelDescription(ModelInfo, total=False):
    """`model.json`: what training tells, and what the folder itself says (`models.folder`)."""

    format: int
    family: str
    options: JsonObject
    """The family's own: `models.base.ModelOptions`."""
    spec: JsonObject
    """`models.base.InputSpec`."""
    history: HistoryRecord
    files: dict[str, str]
    files_hash: str
    version: str
