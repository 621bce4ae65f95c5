"""A gallery of two posts."""

from hashtag_core.evaluation.gallery import Gallery, ShownPost


def gallery(posts: int, caption: str = "x", picture: bytes = b"1234") -> Gallery:
    made = Gallery(["one"], ["all"], ["a", "b", "c"], 2, 5, posts)
    for n in range(posts):
        made.posts.append(ShownPost(f"{n}", None, caption, "ok", 1, [2], [[0, 2]], [[0.5, 0.1234]], f"p{n // 2}"))
        made.thumbnails[f"p{n // 2}"] = picture
    return made
