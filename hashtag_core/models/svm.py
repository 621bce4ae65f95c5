"""Support vector machines: LibSVM's multi-class machine, or one linear machine a tag. Ranked by decision value.

Chih-Chung Chang, Chih-Jen Lin: LIBSVM: A Library for Support Vector Machines, ACM TIST 2(3), 2011. A baseline of
article 003, there "multi-class classification with LibSVM" on features of AMNN.

    libsvm   f_ij(x) = sum_s a_s K(x_s, x) + b_ij for each pair of tags, K(x, y) = exp(-gamma |x - y|^2) or x . y;
             value of tag i = its votes (f_ij > 0) + c_i / (3 (|c_i| + 1)), c_i = sum_j f_ij; score = (value + 1/3) / (C - 1/3)
    linear   value of tag v = w_v . x + b_v, of all posts with the tag against those without; score = sigmoid(value)

What differs here, or is left open there: gamma is scikit-learn's `scale` unless `gamma = "libsvm"` asks for LibSVM's own
default, as the paper recipe does; a post with several tags is one training example a tag (`libsvm`). At most
`fit_examples` examples (`linear`: posts), drawn at random, are fitted on; a tag that none of them carries scores 0, or
with `linear` its share of the posts. scikit-learn fits; what it found is kept as arrays.

(Articles by number: docs/models.md.)
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hashtag_core.data.batches import PostBatch
from hashtag_core.models.base import FitSource, InputSpec, ModelOptions
from hashtag_core.models.neighbor_voting import TINY_AMNN
from hashtag_core.models.post_vectors import VectorModel, VectorOptions
from hashtag_core.models.registry import register

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PAIR_NUMBERS = 1 << 24
"""Values of pairs that are held at once when posts are scored: 64 MB."""


GAMMAS: dict[float | str | None, str] = {None: "scale", "libsvm": "auto"}
"""scikit-learn's names."""


class SvmOptions(VectorOptions):
    machine: Literal["libsvm", "linear"] = "linear"
    kernel: Literal["rbf", "linear"] = "rbf"
    """Of `libsvm`, whose default is `rbf`."""
    gamma: Annotated[float, Field(gt=0)] | Literal["libsvm"] | None = None
    """Of `rbf`; `libsvm`: 1 / numbers of a vector, LibSVM's default; null: 1 / (numbers of a vector * their variance),
    scikit-learn's `scale`."""
    cost: float = Field(1.0, gt=0)
    """C."""
    fit_examples: int = Field(20_000, ge=1)

    @model_validator(mode="after")
    def _dense(self) -> "SvmOptions":
        if self.machine == "libsvm" and self.features == "tfidf":
            raise ValueError("machine: 'libsvm' reads features 'amnn' or 'frozen'; 'tfidf' goes with 'linear'")
        return self


class PairwiseMachine(nn.Module):
    """What LibSVM found for C classes: S support vectors, class by class, and their weights against the C - 1 others."""

    classes_C: Tensor
    counts_C: Tensor
    support_SD: Tensor
    weights_JS: Tensor
    bias_P: Tensor
    gamma: Tensor

    def __init__(self, size: int, kernel: str) -> None:
        super().__init__()
        self.kernel = kernel
        self.register_buffer("classes_C", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("counts_C", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("support_SD", torch.zeros(0, size))
        self.register_buffer("weights_JS", torch.zeros(0, 0))
        self.register_buffer("bias_P", torch.zeros(0))
        self.register_buffer("gamma", torch.zeros(()))

    def fit(self, vectors_ND: np.ndarray, tags_N: np.ndarray, options: SvmOptions) -> None:
        """With fewer than two tags there is nothing to tell apart: no class is kept."""
        if len(np.unique(tags_N)) < 2:
            return
        from sklearn.svm import SVC  # here: scikit-learn takes two seconds to import

        machine = SVC(C=options.cost, kernel=self.kernel, gamma=GAMMAS.get(options.gamma, options.gamma)).fit(
            vectors_ND, tags_N
        )
        sign = -1 if len(machine.classes_) == 2 else 1  # of two classes scikit-learn turns the sign
        self.classes_C = torch.from_numpy(machine.classes_)
        self.counts_C = torch.from_numpy(machine.n_support_).long()
        self.support_SD = torch.from_numpy(machine.support_vectors_).float()
        self.weights_JS = torch.from_numpy(sign * machine.dual_coef_).float()
        self.bias_P = torch.from_numpy(sign * machine.intercept_).float()
        self.gamma = torch.tensor(machine._gamma).float()

    def pair_values(self, vectors_BD: Tensor) -> Tensor:
        """f_ij at [B, i, j], and -f_ij at [B, j, i]."""
        kernel_BS = vectors_BD @ self.support_SD.t()
        if self.kernel == "rbf":
            squares_BS = vectors_BD.square().sum(1)[:, None] + self.support_SD.square().sum(1) - 2 * kernel_BS
            kernel_BS = torch.exp(-self.gamma * squares_BS)
        classes = len(self.classes_C)
        values_BCC = vectors_BD.new_zeros(len(vectors_BD), classes, classes)
        ends = self.counts_C.cumsum(0).tolist()
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            against_BJ = kernel_BS[:, start:end] @ self.weights_JS[:, start:end].t()
            values_BCC[:, i, :i] = against_BJ[:, :i]
            values_BCC[:, i, i + 1 :] = against_BJ[:, i:]
        first_P, second_P = torch.triu_indices(classes, classes, offset=1, device=vectors_BD.device)
        values_BP = values_BCC[:, first_P, second_P] + values_BCC[:, second_P, first_P] + self.bias_P
        values_BCC[:, first_P, second_P] = values_BP
        values_BCC[:, second_P, first_P] = -values_BP
        return values_BCC

    def values(self, vectors_BD: Tensor) -> Tensor:
        """values_BC, as scikit-learn's `decision_function` of shape `ovr` for more than two classes."""
        values_BCC = self.pair_values(vectors_BD)
        first_CC = torch.ones_like(values_BCC[0]).triu(1).bool()
        votes_BC = torch.where(first_CC, values_BCC >= 0, values_BCC > 0).sum(2)
        confidence_BC = values_BCC.sum(2)
        return votes_BC + confidence_BC / (3 * (confidence_BC.abs() + 1))


@register
class Svm(VectorModel):
    name: ClassVar[str] = "svm"
    paper: ClassVar[str] = (
        "Support vector machines (LibSVM multi-class, or linear one-vs-rest), ranked by decision value."
    )
    Options: ClassVar[type[ModelOptions]] = SvmOptions
    examples: ClassVar = {
        "default": {},
        "tfidf": {"features": "tfidf", "min_word_count": 1},
        "libsvm": {"machine": "libsvm"},
        "amnn": {"machine": "libsvm", "kernel": "linear", "features": "amnn", "amnn": TINY_AMNN, "cost": 10.0},
    }

    weight_VD: Tensor
    bias_V: Tensor

    def __init__(self, options: SvmOptions, spec: InputSpec) -> None:
        super().__init__(options, spec)
        self.settings = options
        self.pairwise: PairwiseMachine | None = None
        if options.machine == "libsvm":
            self.pairwise = PairwiseMachine(self.vectors.size, options.kernel)
        else:
            self.register_buffer("weight_VD", torch.zeros(spec.vocabulary_size, self.vectors.size))
            self.register_buffer("bias_V", torch.zeros(spec.vocabulary_size))

    def fit(self, source: FitSource, *, seed: int) -> dict[str, float]:
        """One pass, then everything in memory: 4 bytes a number of an example (8 while it is fitted)."""
        from scipy.sparse import csr_matrix, vstack

        self.vectors.fit(source)
        chosen_N = np.random.default_rng(seed).permutation(source.posts) < self.settings.fit_examples
        vectors, tags = [], []
        position = 0
        for vectors_BD, _, tags_B in self.rows(source):
            kept_B = chosen_N[position : position + len(tags_B)]
            position += len(tags_B)
            part = vectors_BD.numpy()[kept_B]
            vectors.append(csr_matrix(part) if self.settings.features == "tfidf" else part)
            tags += [row for row, kept in zip(tags_B, kept_B, strict=True) if kept]
        joined = vstack(vectors).tocsr() if self.settings.features == "tfidf" else np.concatenate(vectors)
        if self.pairwise is None:
            return self._fit_linear(joined, tags)
        example_N = np.repeat(np.arange(len(tags)), [len(row) for row in tags])
        tags_N = np.array([tag for row in tags for tag in row], dtype=np.int64)
        drawn = np.random.default_rng(seed).permutation(len(tags_N))[: self.settings.fit_examples]
        self.pairwise.fit(joined[example_N[drawn]], tags_N[drawn], self.settings)
        return {"examples": float(len(drawn)), "support_vectors": float(len(self.pairwise.support_SD))}

    def _fit_linear(self, vectors_ND: "np.ndarray | csr_matrix", tags: list[list[int]]) -> dict[str, float]:
        from sklearn.svm import LinearSVC

        labels_NV = np.zeros((len(tags), self.spec.vocabulary_size), dtype=bool)
        for row, indices in enumerate(tags):
            labels_NV[row, indices] = True
        weight_VD, bias_V = np.zeros(self.weight_VD.shape), np.zeros(len(self.bias_V))
        for tag, labels_N in enumerate(labels_NV.T):
            if labels_N.all() or not labels_N.any():
                share = (labels_N.sum() + 0.5) / (len(labels_N) + 1)
                bias_V[tag] = np.log(share / (1 - share))
                continue
            machine = LinearSVC(C=self.settings.cost).fit(vectors_ND, labels_N)
            weight_VD[tag], bias_V[tag] = machine.coef_[0], machine.intercept_[0]
        self.weight_VD, self.bias_V = torch.from_numpy(weight_VD).float(), torch.from_numpy(bias_V).float()
        return {"examples": float(len(tags))}

    def values(self, vectors_BD: Tensor) -> Tensor:
        """values_BV of `linear`."""
        return vectors_BD @ self.weight_VD.t() + self.bias_V

    def score(self, batch: PostBatch) -> Tensor:
        vectors_BD, _ = self.vectors(batch)
        if self.pairwise is None:
            return torch.sigmoid(self.values(vectors_BD))
        scores_BV: Tensor = vectors_BD.new_zeros(len(batch), self.spec.vocabulary_size)
        classes = len(self.pairwise.classes_C)
        if classes:
            posts = max(1, PAIR_NUMBERS // classes**2)
            values_BC = torch.cat([self.pairwise.values(part) for part in vectors_BD.split(posts)])
            scores_BV[:, self.pairwise.classes_C] = (values_BC + 1 / 3) / (classes - 1 / 3)
        return scores_BV
