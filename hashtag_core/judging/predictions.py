"""What a model gave to the posts of a split, as a table that MLflow shows beside those of other runs."""

from typing import Any

from hashtag_core.evaluation.gallery import MOST_TAGS, shown_rows
from hashtag_core.evaluation.ground_truth import Ranked, Truth

MOST_ROWS = 1_000
TABLE = "predictions.json"


def predictions(ranked: Ranked, truth: Truth, most: int) -> dict[str, list[Any]]:
    """Columns `post_id`, `true_hashtags`, `hashtags` and `scores` (best first, the first `MOST_TAGS`), `status`.

    At most `most` posts and never more than `MOST_ROWS`, evenly spaced over the split: the same ones for every model, so that
    the tables of two runs can be laid side by side.
    """
    rows = shown_rows(len(truth.tags), min(most, MOST_ROWS))
    names = list(truth.ids)
    ids = [post for table in truth.dataset.read(truth.split, ["post_id"]) for post in table["post_id"].to_pylist()]
    lists, scores = [], []
    for row in rows:
        tags_N = ranked.judged.ranked_NK[row][:MOST_TAGS]
        given = tags_N >= 0
        lists.append([names[tag] for tag in tags_N[given]])
        scores.append([round(float(score), 6) for score in ranked.scores_NK[row][: len(tags_N)][given]])
    return {
        "post_id": [ids[row] for row in rows],
        "true_hashtags": [[names[tag] for tag in truth.tags[row]] for row in rows],
        "hashtags": lists,
        "scores": scores,
        "status": [ranked.statuses[row] for row in rows],
    }
