"""Gates: what a challenger must pass to become champion. Pure decisions over figures that were measured before."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hashtag_core.config import GatesSection, nearest
from hashtag_core.errors import ConfigError
from hashtag_core.evaluation.metrics import index_metrics, judge


@dataclass(frozen=True)
class Gate:
    """One decision and, in words, what it rests on."""

    name: str
    passed: bool
    detail: str

    def as_json(self) -> dict[str, Any]:
        """As the summary and the record show it."""
        return asdict(self)


@dataclass(frozen=True)
class Contender:
    """One side: what it is called, its figures by protocol, and the hash of the dataset that it was trained on."""

    uri: str
    figures: Mapping[str, Mapping[str, float]]
    trained_on: str | None


def check_gates(gates: GatesSection, ks: Sequence[int]) -> None:
    """ConfigError for a gate on a metric that is not computed."""
    known = index_metrics(judge([[0]], [[0]], 1), ks, gates.protocol, users=[None], popularity_V=[1.0])
    if gates.metric not in known:
        raise ConfigError(
            f"gates.metric: no metric {gates.metric!r} at evaluation.ks {list(ks)}{nearest(gates.metric, known)}"
        )


def judge_challenger(
    challenger: Contender, champion: Contender | None, dataset_hash: str, posts: float, gates: GatesSection
) -> list[Gate]:
    """The gates, in order:

    `dataset`: the challenger was trained on the dataset that both are judged on, else its train posts may be among the
    posts that judge it. `posts`: the split has posts that count. `gain`: its figure is above the champion's by more than
    `gates.min_gain`; passed where there is no champion.
    """
    own = challenger.trained_on
    same = own == dataset_hash
    trained = f"trained on dataset {_short(own)}" if own else "trained on a dataset that its model.json does not name"
    told = f"{challenger.uri} was {trained}, judged on {_short(dataset_hash)}"
    if champion is not None and champion.trained_on != dataset_hash:
        told += f"; the champion was trained on {_short(champion.trained_on)}"
    return [
        Gate("dataset", same, told),
        Gate("posts", posts > 0, f"{posts:.0f} posts count under protocol {gates.protocol}"),
        _gain(challenger, champion, gates),
    ]


def _gain(challenger: Contender, champion: Contender | None, gates: GatesSection) -> Gate:
    name = f"{gates.metric} ({gates.protocol})"
    ours = challenger.figures[gates.protocol][gates.metric]
    if champion is None:
        return Gate("gain", True, f"no champion yet; {name}: {challenger.uri} {ours:.4f}")
    theirs = champion.figures[gates.protocol][gates.metric]
    passed = ours - theirs > gates.min_gain
    wanted = f"more than {gates.min_gain:+.4f} is asked for"
    return Gate(
        "gain",
        passed,
        f"{name}: {challenger.uri} {ours:.4f}, champion {champion.uri} {theirs:.4f}: {ours - theirs:+.4f}, {wanted}",
    )


def _short(content_hash: str | None) -> str:
    return content_hash[:12] if content_hash else "unknown"
