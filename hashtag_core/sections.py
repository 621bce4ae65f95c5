"""The sections of a recipe: every key, its type, its default and what it means. (Articles by number: docs/models.md.)

The `[model]` section holds `family` and that family's own options, which `hashtag_core.models.registry` validates by
the same rules: this module knows no model.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import TypedDict  # of the standard library for pydantic from Python 3.12 on

from hashtag_core.json_values import JsonObject


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are checked on assignment, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null(cls, values: Any) -> Any:
        """TOML has no null: the string "null" stands for it."""
        if isinstance(values, Mapping):
            return {key: None if value == "null" else value for key, value in values.items()}
        return values


class ArchiveSection(Section):
    """How `prepare` reads the archive."""

    format: str = "posts"
    batch_rows: int = Field(512, ge=1, le=100_000)
    max_image_bytes: int = Field(50_000_000, ge=1)
    image_hosts: list[str] = []
    """Hosts from which pictures at `https://` addresses are fetched: `cdn.example.org`, `*.example.org`, `example.org:8443`;
    `http://old.example.org` for one without https; `intern=10.0.0.0/8` where a name may lead to addresses that are not public."""
    map: dict[str, str] = {}
    """Field of a post -> the column or key that holds it, where it has another name (`{caption = "text"}`)."""
    date_format: str | None = None
    """How dates are written, as strptime has it (`%d.%m.%Y %H:%M`), or `unix`, `unix_ms`, `unix_us`; null: ISO 8601."""
    encoding: str | None = None
    """Of tables and lines; null: as the file says (a byte order mark, UTF-8, Windows-1252 where it is certain)."""
    delimiter: str | None = None
    """Of tables; null: as the header says (comma, semicolon, tab, `|`)."""
    hashtag_rules: Literal["instagram", "twitter"] = "instagram"
    """Whether `#love#nature` in a caption is two hashtags or none."""
    max_missing_images: float | None = Field(None, ge=0, le=1)
    """Share of the pictures that posts name and that are not there above which `prepare` stops; null: never, it warns."""
    require: list[Literal["image", "caption", "hashtags"]] = []
    """Posts without one of these (a picture that can be decoded, a word left in the cleaned caption, a hashtag) are left
    out (article 003: image and caption; article 004: caption and hashtags)."""
    letters: Literal["any", "english"] = "any"
    """`english`: posts with an emoji, or a letter beyond A-Z, in caption or hashtags are left out (article 004). Other languages
    that are written with these letters stay."""


class ReadingOptions(TypedDict, total=False):
    """What of an `ArchiveSection` decides how rows are read, in its order; what has its default is left out."""

    format: str
    map: dict[str, str]
    date_format: str | None
    encoding: str | None
    delimiter: str | None


class CaptionsSection(Section):
    """What is taken out of a caption before a model reads it. The same rules hold at tagging time."""

    hashtags: Literal["remove", "keep_inline_words", "keep"] = "remove"
    """`remove`: tag and '#' go (default). `keep_inline_words`: a tag inside the sentence keeps its word (article 001;
    it leaks the answer). `keep`: untouched."""
    mentions: Literal["keep", "remove"] = "keep"
    urls: Literal["keep", "remove"] = "remove"
    non_alphabetic: Literal["keep", "remove"] = "keep"
    stop_words: Literal["keep", "remove"] = "keep"
    """`remove`: the English ones go, as scikit-learn lists them (article 003)."""
    min_words: int = Field(0, ge=0)
    """Posts with a shorter caption are left out of the dataset (article 001: 5)."""


class VocabularySection(Section):
    """Which hashtags a model may recommend; decided on the train split alone."""

    min_count: int = Field(5, ge=1)
    max_size: int = Field(10_000, ge=1)
    deny: list[str] = []
    deny_file: str | None = None
    synonyms: dict[str, str] = {}
    synonyms_file: str | None = None
    min_tags_per_post: int = Field(0, ge=0)
    """Train posts with fewer tags are left out (article 001: 5)."""
    min_tags_counted: Literal["before_cut", "after_cut"] = "before_cut"


class SplitSection(Section):
    """How posts are divided. Fractions are of groups (users, near-duplicates), so counts differ a little."""

    kind: Literal["random", "by_user", "by_time"] = "by_user"
    validation: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)
    fold: int = Field(0, ge=0)
    """Which part of the users the test split is, in parts of `test`: with `test = 0.2` folds 0 to 4 hold all of them, each once."""
    seed: int = 0
    near_duplicate_bits: int = Field(0, ge=0, le=16)
    """Hamming distance of two 64-bit perceptual hashes up to which two images count as one."""

    @model_validator(mode="after")
    def _leaves_train(self) -> "SplitSection":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test = {self.validation + self.test:g} leaves nothing to train on")
        if self.fold and (self.kind == "by_time" or (self.fold + 1) * self.test > 1 + 1e-9):
            raise ValueError(f"fold {self.fold} of parts of {self.test:g}, {self.kind}: there is no such part")
        return self


class EncodersSection(Section):
    """The encoders, frozen unless `finetune` says otherwise. `minilm` and `efficientnet_lite0` come with the `sample` extra; `hf:<name or folder>` is any
    transformers model; for images also `vgg16:<file>`, `vgg16_fc7:<file>` and `inception_v3:<file>`, networks that
    transformers does not have, with a weights file in torchvision's layout."""

    text: str = "minilm"
    image: str = "efficientnet_lite0"
    image_second: str | None = None
    """A second image encoder, for families that read two vectors of a picture (`vgg_object_scene`); null: none."""
    regions: str = "grid"
    """`grid` (cells of the image encoder's feature map), `detector:<hf name or folder>` (the most confident boxes of a
    transformers detection model) or `precomputed:<URI>` (Parquet: post_id, boxes, features); see `encoders.regions`."""
    grid_side: int = Field(6, ge=1, le=32)
    """Its square is how many regions there are, from whichever source."""
    max_tokens: int = Field(64, ge=1, le=512)
    """Word pieces of a caption that the text encoder sees, special tokens included."""
    batch_size: int = Field(64, ge=1)
    backend: Literal["auto", "torch", "onnx"] = "auto"
    """`auto`, on a CPU: ONNX Runtime for a convolutional network; for the text encoder what is faster there, measured once a machine."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of transformers; a convolutional network stays in float32."""
    cache: str | None = None
    """Where features are kept; null: `_features/` beside the dataset."""
    finetune: str = Field("none", pattern=r"^(none|all|lora|last:[1-9][0-9]*)$")
    """What of the encoders is trained with the model: `none`, their last N blocks (`last:N`), `all` of them, or (`lora`) small
    matrices beside the weights of all of them. The model folder then holds what was trained. `training.encoder_learning_rate` is its rate."""
    lora_rank: int = Field(8, ge=1)
    """Rank of what `lora` adds to a layer."""
    finetune_of: list[Literal["image", "caption"]] = ["image", "caption"]
    """Which encoders `finetune` is of."""
    layer_decay: float = Field(1.0, gt=0.0, le=1.0)
    """The rate of a block is that of the block above it times this."""
    unfreeze_epochs: int = Field(0, ge=0)
    """Gradual unfreezing: at first only the top block of each encoder is trained, and every so many epochs the next one below it
    too; 0: all that `finetune` names are trained from the first epoch on."""
    augment: bool = False
    """Flip and crop pictures at random before an image encoder that reads pixels in training (`finetune = "all"`); with
    `training.encoder_learning_rate = 0` the encoder itself stays as it came."""
    checkpoint_gradients: bool = False
    """Compute the blocks that are trained once more for their gradients, in place of keeping what they gave: less memory."""


class HistorySection(Section):
    """Which posts make a user's history; how many is the family's option `history_posts`."""

    order: Literal["earlier", "other"] = "earlier"
    """`earlier`: strictly earlier by `created_at`; a post without a date has no history. `other`: other posts of the user,
    for archives without dates; reports say so."""


class ModelSection(BaseModel):
    """The family and, beside it, the family's own options (validated by the family)."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    family: str = "lxmert4hashtag"

    @property
    def options(self) -> JsonObject:
        """The family's own, as they were written."""
        return dict(self.model_extra or {})


RETIRED: Mapping[str, tuple[Any, ...]] = {"finetune_encoders": (False,), "streaming": ("auto", "never")}
"""Keys of `[training]` that no release acted on, and the values that recipes of runs and models hold."""


class TrainingSection(Section):
    """The training loop; closed-form families read `seed`, `train_share` and `tag_thresholds` alone."""

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: Any) -> Any:
        """A recipe that was saved with a model is read for ever."""
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if value not in RETIRED.get(key, ())}

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    """Posts a step, all workers together."""
    accumulate: int = Field(1, ge=1)
    """Steps whose gradients make one optimizer step, of `accumulate * batch_size` posts."""
    learning_rate: float = Field(1e-3, gt=0)
    encoder_learning_rate: float | None = Field(None, ge=0)
    """For parameters that came pretrained; null: the same rate; 0: they stay as they are."""
    weight_decay: float = Field(0.01, ge=0)
    weight_decay_of: Literal["matrices", "all"] = "matrices"
    """`matrices`: biases, norms, other vectors and the embeddings of absence are spared (BERT's practice); `all`: what an
    optimizer's own weight decay does (article 004)."""
    optimizer: Literal["adamw", "adam", "bert_adam"] = "adamw"
    """`bert_adam`: AdamW without bias correction, each parameter's gradient clipped at norm 1 by itself (Devlin et al. 2019)."""
    schedule: Literal["constant", "linear", "cosine", "cosine_restarts"] = "linear"
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of all steps."""
    restart_epochs: int = Field(5, ge=1)
    gradient_clip_norm: float | None = Field(1.0, gt=0)
    """Of all parameters together; null: not clipped."""
    output_bias_start: Literal["tag_frequencies", "as_drawn"] = "tag_frequencies"
    """Where the biases of the layers begin that give the tags' logits: at how often the train posts have each tag (ours), or as
    the family draws them."""
    weight_average: float | None = Field(None, gt=0, lt=1)
    """Decay, a step, of an exponential moving average of the weights, which is judged and kept in place of the last step's;
    null: no average."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: bfloat16 autocast where the device computes it faster, else float32."""
    modality_dropout: float = Field(0.0, ge=0, lt=1)
    """Chance that a post's image, and independently its caption, is hidden in a step, so that the embeddings of absence are trained."""
    train_share: float = Field(1.0, gt=0, le=1)
    """Share of the train posts that is learned from, for learning curves; a smaller one is part of a larger one."""
    label_order: Literal["written", "shuffled", "frequent_first"] = "written"
    max_tags: int = Field(30, ge=1)
    """Tags of one post that a sequence family is taught, at most."""
    select_metric: str = "f1_at_5"
    """What tells the best epoch on validation. `best_f1`: the F1 at the list length where it is highest (article 002)."""
    select_protocol: Literal["headline", "papers", "floor"] = "floor"
    early_stopping_epochs: int | None = Field(5, ge=1)
    """Epochs without a better validation figure after which training stops; null: never."""
    seed: int = 0
    workers: int = Field(1, ge=1)
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How workers share the model. `ddp`: each holds it whole. `fsdp`: parameters, gradients and the optimizer's state are spread
    over them, for a model that a card does not hold with these (`training.sharded`)."""
    worker_cpus: float | None = Field(None, gt=0)
    """CPUs a worker reserves, asked of a cluster as they are, and its threads. Null: on a cluster 4 beside a GPU, else 2; on a
    single machine what it has, shared: name it where two trainings run on one machine at once."""
    gpus: Literal["auto", "never", "always", "cluster"] = "auto"
    """Whether each worker has a GPU. `auto`: where so many are up. `always`: a single machine without them is refused, a
    cluster is asked to start some. `cluster`: a cluster is asked to start some, a single machine is taken as it is."""
    start_timeout_s: int = Field(1200, ge=10)
    """How long a cluster may take to start machines for the workers; then the run fails."""
    max_failures: int = Field(3, ge=0)
    checkpoint_steps: int | None = Field(None, ge=1)
    """Optimizer steps after which a checkpoint is written within an epoch too; null: after each epoch alone."""
    storage: str | None = None
    """Where checkpoints go (local or `s3://`); null: `runs/` in the working folder."""
    tag_thresholds: bool = False
    """Whether the model gets a `thresholds.json`, which tagging heeds: for each tag that validation posts have, the score of its
    best F1 there (two more passes over the validation split, by the finished model). See `evaluation.tag_thresholds`."""
    tag_thresholds_fbr: float = Field(0.1, ge=0, le=1)
    """A tag whose best F1 is below it is given only from its highest validation score on (SCutFBR.1, Yang 2001)."""


class EvaluationSection(Section):
    """What `evaluate` and `promote` compute."""

    ks: list[int] = Field(default_factory=lambda: list(range(1, 11)))
    split: Literal["test", "validation"] = "test"
    batch_rows: int = Field(512, ge=1)
    bootstrap_samples: int = Field(1000, ge=0)
    seed: int = 0
    gallery_posts: int = Field(5000, ge=0, le=5000)
    """Posts that `report.html` shows with picture and caption; 0: figures alone, for a report that leaves the house."""


class GatesSection(Section):
    """What a challenger must pass; see `promotion.gates` and docs/registry.md."""

    metric: str = "f1_at_5"
    protocol: Literal["headline", "papers", "floor"] = "headline"
    min_gain: float = 0.002
    """The challenger's figure must exceed the champion's by more than this; below 0 it may be worse by so much, and no proof
    is asked for."""
    max_p_value: float = Field(0.05, gt=0, le=1)
    """Of the paired bootstrap over users, two-sided: beyond it a gain is held for chance."""
    bootstrap_samples: int = Field(2000, ge=100)
    min_posts: int = Field(1, ge=1)
    """Posts of the split that must count."""
    max_slice_loss: float = Field(0.02, ge=0)
    """What may be lost on a kind of post or of tag (short captions, no image, no history, tail tags), beyond chance."""
    min_slice_posts: int = Field(20, ge=1)
    """A smaller slice does not judge."""
    max_calibration_loss: float = Field(0.1, ge=0)
    """By how much the expected calibration error may be above the champion's."""
    min_coverage_ratio: float = Field(0.5, ge=0)
    """Share of the champion's coverage of the vocabulary."""
    min_novelty_ratio: float = Field(0.5, ge=0)
    min_speed_ratio: float = Field(0.2, ge=0)
    """Share of the champion's posts a second, from pictures and captions on; not of a champion that looks into neither."""
    speed_posts: int = Field(48, ge=1)
    """Posts that the speed is measured on."""
    golden_tolerance: float = Field(5e-3, ge=0)
    """By how much a score may differ from what the model gave when it was registered: encoder backends differ by so much."""
    max_split_uses: int | None = Field(None, ge=1)
    """Challengers that one split may judge; null: it is counted and told."""


class RecommendSection(Section):
    """How a model's scores become a list."""

    diversity: float = Field(0.0, ge=0, le=1)
    """From popular (0: the scores as they are) to specific (1): see `recommend.ranking.less_popular`."""


class TaggingSection(Section):
    """The bulk tagging job."""

    top_k: int = Field(10, ge=1, le=1000)
    chunk_rows: int = Field(512, ge=1, le=100_000)
    chunks_per_task: int = Field(8, ge=1)
    """Consecutive chunks of one row group that one task reads through."""
    actors: int | None = Field(None, ge=1)
    """Tagging actors. Null: on a single machine one a GPU, else one a CPU; a cluster that grows is asked for as many as the work can
    use, and starts machines for them."""
    gpus: Literal["auto", "never", "always", "cluster"] = "auto"
    """Whether each actor has a GPU. `auto`: where any is up. `always`: a single machine without them is refused, a cluster is
    asked to start some. `cluster`: a cluster is asked to start some, a single machine is taken as it is."""
    start_timeout_s: int = Field(1200, ge=10)
    """How long a cluster may take to start machines for the actors; then the run ends."""
    batch_size: int = Field(64, ge=1)
    drift_warning: float = Field(0.25, gt=0)
    """Population stability index of the tags against those of the last finished run above which a run warns."""
    image_prefixes: list[str] | None = None
    """Folders and `s3://` prefixes that an `image_uri` may name beside the archive; null: the archive's own bucket."""
    max_rejected: float | None = Field(None, ge=0, le=1)
    """Share of rejected rows beyond which a run stops; null: never. Rows of a repeated id are not counted."""
    deny: list[str] = []
    """Tags that are never given; the next ones move up."""
    deny_file: str | None = None
    """The same, one a line."""
    extra_tags: list[str] = []
    """Tags that the model was not taught and that may be given too, known by their names alone (see `recommend.extra_tags`)."""
    extra_tags_file: str | None = None
    """The same, one a line."""
    min_score: float = Field(0.0, ge=0, le=1)
    """A tag below it is not given: a post may then have fewer than `top_k`, or none. A `thresholds.json` in the model folder
    ({tag: score}; `training.tag_thresholds` writes it) sets it higher for single tags."""


class TrackingSection(Section):
    """Names in MLflow."""

    experiment: str = "hashtag-recommender"
    model_name: str = "hashtag-recommender"
    """Registered model; all families are versions of it, so that one alias `champion` stands over them all."""

    @field_validator("model_name")
    @classmethod
    def _registrable(cls, name: str) -> str:
        if not name.strip() or "/" in name or ":" in name or name.startswith("m-"):
            raise ValueError("a registered model's name may not be empty, hold '/' or ':', or begin with 'm-'")
        return name
