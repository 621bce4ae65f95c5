"""Gates: what a challenger must pass to become champion. Pure decisions over figures that were measured before.

A gate that compares two figures asks two questions: is the difference larger than what is bearable (or than what is asked
for), and is it more than chance. Chance is the paired bootstrap over users (`significance`): posts of one user are alike,
so they are drawn together, and both models are judged on the same draws. A loss counts when it is larger than the limit
and its interval lies below 0; a gain counts when it is larger than the margin and its p-value is small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from hashtag_core.config import GatesSection, nearest
from hashtag_core.errors import ConfigError
from hashtag_core.evaluation.metrics import index_metrics, judge
from hashtag_core.evaluation.significance import Difference

FLOORS = ("popularity", "linear")
"""Families that the first champion must beat, the simpler one first; a floor must beat those before it and after it."""


class GateRecord(TypedDict):
    """A `Gate`, as it is written down."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Gate:
    """One decision and, in words, what it rests on."""

    name: str
    passed: bool
    detail: str

    def as_json(self) -> GateRecord:
        """As the summary and the record show it."""
        return {"name": self.name, "passed": self.passed, "detail": self.detail}


@dataclass(frozen=True)
class Contender:
    """One side: what it is called, its figures by protocol, and the hash of the dataset that it was trained on."""

    uri: str
    figures: Mapping[str, Mapping[str, float]]
    trained_on: str | None
    family: str = ""
    calibration: float = 0.0
    """Expected calibration error of the first tags."""
    posts_per_second: float = 0.0
    encodes: bool = True
    """Whether it looks into pictures or captions, which is what takes time."""
    signature: Mapping[str, object] | None = None
    """What it takes and gives, as JSON; None where nothing says it."""
    golden: float | None = None
    """Greatest difference of a score to the golden outputs; None where none were recorded."""


@dataclass(frozen=True)
class Duel:
    """Challenger minus another model on the same posts."""

    against: str
    gain: Difference | None
    """Of `gates.metric`; None where no post counts."""
    slices: Mapping[str, tuple[int, Difference]] = field(default_factory=dict)
    """By kind of post or of tag: how many posts it has, and the difference there."""


def check_gates(gates: GatesSection, ks: Sequence[int]) -> None:
    """ConfigError for a gate on a metric that is not computed, or that no post has a figure of its own for."""
    known = index_metrics(judge([[0]], [[0]], 1), ks, gates.protocol, users=[None], popularity_V=[1.0])
    if gates.metric not in known:
        raise ConfigError(
            f"gates.metric: no metric {gates.metric!r} at evaluation.ks {list(ks)}{nearest(gates.metric, known)}"
        )


def judge_challenger(
    challenger: Contender,
    champion: Contender | None,
    duels: Sequence[Duel],
    dataset_hash: str,
    posts: float,
    uses: int,
    gates: GatesSection,
) -> list[Gate]:
    """The gates, in order:

    `dataset`: the challenger was trained on the dataset that both are judged on, else its train posts may be among the
    posts that judge it. `posts`: enough posts count. `split`: how often this split has judged. `golden`, `signature`: the
    challenger gives what it gave when it was registered, and takes and gives the same columns as the champion. `gain`: its
    figure is above the champion's by more than `gates.min_gain`, beyond chance; the first champion must beat every floor
    of another family so. `slices`, `calibration`, `coverage`, `novelty`, `speed`: no part of it is bought with a loss
    elsewhere. `duels` are against the champion or, while there is none, against the floors.
    """
    decided = [
        _dataset(challenger, champion, dataset_hash),
        Gate(
            "posts",
            posts >= max(gates.min_posts, 1),
            f"{posts:.0f} posts count under protocol {gates.protocol}, at least {max(gates.min_posts, 1)} are asked for",
        ),
        _split(uses, gates),
        _golden(challenger, gates),
        _signature(challenger, champion),
    ]
    if champion is None:
        return [*decided, _floors(challenger, duels, gates)]
    (duel,) = duels
    return [
        *decided,
        _gain("gain", challenger, champion, duel, gates),
        _slices(duel, gates),
        _calibration(challenger, champion, gates),
        _ratio("coverage", challenger, champion, gates.min_coverage_ratio, gates),
        _ratio("novelty", challenger, champion, gates.min_novelty_ratio, gates),
        _speed(challenger, champion, gates),
    ]


def _dataset(challenger: Contender, champion: Contender | None, dataset_hash: str) -> Gate:
    own = challenger.trained_on
    trained = f"trained on dataset {_short(own)}" if own else "trained on a dataset that its model.json does not name"
    detail = f"{challenger.uri} was {trained}, judged on {_short(dataset_hash)}"
    if champion is not None and champion.trained_on != dataset_hash:
        detail += f"; the champion was trained on {_short(champion.trained_on)}"
    return Gate("dataset", own == dataset_hash, detail)


def _split(uses: int, gates: GatesSection) -> Gate:
    detail = f"this split has judged {uses} challenger{'s' if uses != 1 else ''} before"
    if uses:
        by_chance = 1 - (1 - gates.max_p_value / 2) ** (uses + 1)
        detail += f"; of {uses + 1} that are no better, one or more pass by chance with probability {by_chance:.2f}"
    if gates.max_split_uses is None:
        return Gate("split", True, detail)
    return Gate("split", uses < gates.max_split_uses, f"{detail}; it may judge {gates.max_split_uses}")


def _golden(challenger: Contender, gates: GatesSection) -> Gate:
    if challenger.golden is None:
        return Gate("golden", True, "not checked: no golden outputs were recorded when this version was registered")
    detail = f"scores differ from those recorded at registration by at most {challenger.golden:.2g}"
    return Gate(
        "golden", challenger.golden <= gates.golden_tolerance, f"{detail}, {gates.golden_tolerance:g} is allowed"
    )


def _signature(challenger: Contender, champion: Contender | None) -> Gate:
    if champion is None or champion.signature is None or challenger.signature is None:
        return Gate("signature", True, "not compared: nothing to compare with")
    same = challenger.signature == champion.signature
    return Gate(
        "signature", same, "takes and gives the champion's columns" if same else "other columns than the champion's"
    )


def _floors(challenger: Contender, duels: Sequence[Duel], gates: GatesSection) -> Gate:
    """The first champion ever: what is live must be better than what is simplest."""
    if not duels:
        return Gate("gain", True, "no champion yet, and no floor to beat")
    parts = [_gain("gain", challenger, None, duel, gates) for duel in duels]
    detail = "; ".join(part.detail for part in parts)
    return Gate(
        "gain", all(part.passed for part in parts), f"no champion yet: the first must beat the floors; {detail}"
    )


def _gain(name: str, challenger: Contender, champion: Contender | None, duel: Duel, gates: GatesSection) -> Gate:
    metric = f"{gates.metric} ({gates.protocol})"
    gain = duel.gain
    if gain is None:
        ours = challenger.figures[gates.protocol][gates.metric]
        if champion is None:
            return Gate(name, False, f"{metric}: nothing to compare {ours:.4f} with {duel.against} by")
        theirs = champion.figures[gates.protocol][gates.metric]
        detail = f"{metric}: {challenger.uri} {ours:.4f}, {duel.against} {theirs:.4f}: {ours - theirs:+.4f} (chance not tested)"
        return Gate(name, ours - theirs > gates.min_gain, f"{detail}, more than {gates.min_gain:+.4f} is asked for")
    ours = challenger.figures[gates.protocol][gates.metric]
    detail = (
        f"{metric}: {challenger.uri} {ours:.4f}, {duel.against} {ours - gain.value:.4f}: {gain.value:+.4f} "
        f"({gain.low:+.4f} .. {gain.high:+.4f}, p {gain.p_value:.3f})"
    )
    enough, certain = gain.value > gates.min_gain, gain.value > 0 and gain.p_value <= gates.max_p_value
    if gates.min_gain < 0:  # who lets a challenger be worse by so much asks for no proof that it is better
        certain = True
    detail += f", more than {gates.min_gain:+.4f} is asked for"
    if gates.min_gain >= 0:
        detail += f" with p <= {gates.max_p_value:g}"
    if enough and not certain:
        detail += ": the difference may be chance"
    return Gate(name, enough and certain, detail)


def _slices(duel: Duel, gates: GatesSection) -> Gate:
    lost, detail = [], []
    for name, (posts, difference) in duel.slices.items():
        if posts < gates.min_slice_posts:
            continue
        text = f"{name} {difference.value:+.4f} (up to {difference.high:+.4f}, {posts} posts)"
        detail.append(text)
        if difference.value < -gates.max_slice_loss and difference.high < 0:
            lost.append(text)
    if lost:
        return Gate("slices", False, f"loses more than {gates.max_slice_loss:g} on: {', '.join(lost)}")
    few = f"no slice has {gates.min_slice_posts} posts"
    return Gate("slices", True, f"no slice loses more than {gates.max_slice_loss:g}: {', '.join(detail) or few}")


def _calibration(challenger: Contender, champion: Contender, gates: GatesSection) -> Gate:
    ours, theirs = challenger.calibration, champion.calibration
    detail = f"expected calibration error {ours:.4f}, the champion's {theirs:.4f}"
    return Gate(
        "calibration",
        ours <= theirs + gates.max_calibration_loss,
        f"{detail}, {gates.max_calibration_loss:g} more is allowed",
    )


def _ratio(name: str, challenger: Contender, champion: Contender, least: float, gates: GatesSection) -> Gate:
    ours, theirs = (one.figures[gates.protocol].get(name, 0.0) for one in (challenger, champion))
    detail = f"{name} {ours:.4f}, the champion's {theirs:.4f}, at least {least:g} of it is asked for"
    return Gate(name, ours >= least * theirs, detail)


def _speed(challenger: Contender, champion: Contender, gates: GatesSection) -> Gate:
    ours, theirs = challenger.posts_per_second, champion.posts_per_second
    detail = f"{ours:.1f} posts a second, the champion {theirs:.1f} (one after the other on the same posts)"
    if challenger.encodes and not champion.encodes:
        return Gate("speed", True, f"{detail}; not compared: the champion looks into no picture and no caption")
    return Gate(
        "speed", ours >= gates.min_speed_ratio * theirs, f"{detail}, {gates.min_speed_ratio:g} of it is asked for"
    )


def _short(content_hash: str | None) -> str:
    return content_hash[:12] if content_hash else "unknown"
