"""A page in the browser: drop a picture, type a caption, see what each model recommends, side by side.

    python jobs/playground.py [--model MODEL ...] [--port 8765]

Without --model the champion answers. The page is served on this machine's loopback address alone, fetches nothing from anywhere
else, and takes pictures of at most 10 MB. Ctrl-C ends it.
"""

import argparse
import base64
import binascii
import json
import logging
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hashtag_core.errors import ConfigError, HashtagError, UsageError
from jobs.common import JobParser, add_common_arguments, recipe_of, run

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from hashtag_core.recommend.recommender import Recommender

logger = logging.getLogger("hashtag_core.jobs")

HOST = "127.0.0.1"
PORT = 8765
MOST_BYTES = 10_000_000
CAPTION_CHARACTERS = 10_000
MOST_TAGS = 100
FIELDS = {"image", "caption", "user", "top_k", "models", "explain"}
POLICY = (
    "default-src 'none'; img-src data: blob:; connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def build_parser() -> JobParser:
    """The flags of this job."""
    parser = JobParser(prog="playground", description=__doc__)
    parser.add_argument(
        "--model",
        dest="models",
        metavar="MODEL",
        action="append",
        help="a model; may be given again (default: the champion)",
    )
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N", help=f"of {HOST} (default: {PORT}; 0: a free one)"
    )
    add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; its exit code."""
    return run(build_parser(), _playground, argv)


def _playground(arguments: argparse.Namespace) -> Mapping[str, object]:
    from jobs.recommend import load_recommender, resolve

    recipe = recipe_of(arguments)
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port: expected a number from 0 to 65535, found {arguments.port}")
    chosen = arguments.models is not None
    models = list(dict.fromkeys(arguments.models or [f"models:/{recipe.tracking.model_name}@champion"]))
    if arguments.dry_run:
        return {"dry_run": True, "models": [resolve(model, chosen=chosen).uri for model in models], "host": HOST}
    loaded = [load_recommender(model, recipe, chosen=chosen) for model in models]
    return _serve(application([(uri, recommender) for recommender, uri in loaded]), arguments.port)


def _serve(page: "Starlette", port: int) -> Mapping[str, object]:
    """Serve until Ctrl-C or SIGTERM; UsageError for a port that is taken."""
    import socket

    import uvicorn

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        raise UsageError(f"port {port} of {HOST}: {error.strerror}: take another one, --port N") from None
    address = f"http://{HOST}:{listener.getsockname()[1]}/"
    logger.info("the playground is at %s (Ctrl-C ends it)", address)
    began = time.monotonic()
    if (
        threading.current_thread() is threading.main_thread()
    ):  # uvicorn hears SIGTERM, shuts down and raises it again: then it is old news
        signal.signal(signal.SIGTERM, lambda *_: logger.info("ended"))
    server = uvicorn.Server(uvicorn.Config(page, log_level="warning", lifespan="off", access_log=False))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        logger.info("ended")
    return {"address": address, "seconds": round(time.monotonic() - began, 1)}


def application(models: "Sequence[tuple[str, Recommender]]") -> "Starlette":
    """The page and what it asks: `GET /`, `POST /recommend`. `models`: each with what it is called."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.routing import Route

    from hashtag_core.evaluation.pages import style

    pages = FileSystemLoader(Path(__file__).resolve().parent / "pages")
    template = Environment(loader=pages, autoescape=True, undefined=StrictUndefined).get_template("playground.html")
    lock = threading.Lock()  # one question at a time: a model is no server
    labels = [{"label": f"{recommender.loaded.family} · {uri}"} for uri, recommender in models]

    async def page(request: "Request") -> "Response":
        nonce = secrets.token_urlsafe(16)
        values = {"nonce": nonce, "style": style, "models": labels, "explains": any(map(_explains, models))}
        values |= {
            "most_bytes": MOST_BYTES,
            "most_mb": MOST_BYTES // 1_000_000,
            "caption_characters": CAPTION_CHARACTERS,
        }
        headers = {"content-security-policy": POLICY.format(nonce=nonce), "x-content-type-options": "nosniff"}
        return HTMLResponse(template.render(values), headers={**headers, "cache-control": "no-store"})

    async def recommend(request: "Request") -> "Response":
        try:
            question = _question(await _body(request), len(models))
            return JSONResponse({"answers": await run_in_threadpool(_answers, models, question, lock)})
        except HashtagError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return Starlette(
        routes=[Route("/", page), Route("/recommend", recommend, methods=["POST"])],
        # another host name that leads here is another site's (DNS rebinding)
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


async def _body(request: "Request") -> bytes:
    """The body, no larger than a picture in base64 may make it; another site cannot send this type without asking first."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UsageError("expected content-type application/json")
    most = MOST_BYTES * 4 // 3 + 8 * CAPTION_CHARACTERS
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise UsageError(f"more than {MOST_BYTES // 1_000_000} MB: take a smaller picture")
    return bytes(body)


def _question(body: bytes, models: int) -> dict[str, Any]:
    """What is asked, checked; ConfigError that names field, expected and found."""
    try:
        asked = json.loads(body)
        if not isinstance(asked, dict) or set(asked) - FIELDS:
            raise ConfigError(f"expected an object of {', '.join(sorted(FIELDS))}")
        image = asked.get("image")
        data = base64.b64decode(image, validate=True) if image else None
    except (ValueError, TypeError, binascii.Error) as error:
        raise ConfigError(f"not a question: {error}") from None
    caption, user, top_k = asked.get("caption") or "", asked.get("user") or "", asked.get("top_k", 10)
    chosen = asked.get("models", list(range(models)))
    if not isinstance(caption, str) or len(caption) > CAPTION_CHARACTERS or not isinstance(user, str):
        raise ConfigError(f"caption: expected at most {CAPTION_CHARACTERS:,} characters; user: a text")
    if data is not None and len(data) > MOST_BYTES:
        raise ConfigError(f"image: {len(data):,} bytes, more than {MOST_BYTES:,}")
    if type(top_k) is not int or not 1 <= top_k <= MOST_TAGS:
        raise ConfigError(f"top_k: expected a number from 1 to {MOST_TAGS}, found {top_k!r}")
    if not isinstance(chosen, list) or not all(type(index) is int and 0 <= index < models for index in chosen):
        raise ConfigError(f"models: expected places from 0 to {models - 1}, found {chosen!r}")
    post = {"post_id": "asked", "caption": caption.strip() or None, "user_id": user.strip() or None, "image": data}
    return {"post": post, "top_k": top_k, "models": chosen, "explain": bool(asked.get("explain"))}


def _explains(model: "tuple[str, Recommender]") -> bool:
    from inspect import signature

    recommender = model[1]
    return "explain" in signature(recommender.recommend).parameters and getattr(
        recommender.loaded.model, "explains", False
    )


def _answers(
    models: "Sequence[tuple[str, Recommender]]", question: dict[str, Any], lock: threading.Lock
) -> list[dict[str, Any]]:
    return [_answer(models[index], question, lock) for index in question["models"]]


def _answer(model: "tuple[str, Recommender]", question: dict[str, Any], lock: threading.Lock) -> dict[str, Any]:
    """One model's tags; what goes wrong in one leaves the others their answers."""
    from hashtag_core.recommend.answers import explained

    uri, recommender = model
    reply = {"model": f"{recommender.loaded.family} · {uri}"}
    began = time.monotonic()
    extra: dict[str, Any] = {"explain": True} if question["explain"] and _explains(model) else {}
    try:
        with lock:
            (row,) = recommender.recommend([question["post"]], question["top_k"], **extra).to_pylist()
    except HashtagError as error:
        return {**reply, "error": str(error)}
    tags: list[dict[str, Any]] = [
        {"hashtag": tag, "score": score} for tag, score in zip(row["hashtags"], row["scores"], strict=True)
    ]
    for index, why in enumerate(row.get("explanation") or []):
        tags[index]["explanation"] = explained(why)
    given = row["detail"] not in ("no image", "no caption")
    answer = {"hashtags": tags, "status": row["status"], "detail": row["detail"] if given else None}
    return {**reply, **answer, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    sys.exit(main())
