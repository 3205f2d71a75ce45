"""The site's addresses: its pages, what they load, and ``POST /predict`` for other programs."""

import json
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ..data.corrections import VALUES
from ..errors import GrigriError
from ..inference.predictor import Prediction
from ..reporting import html
from . import compare_page
from .compared_runs import Compared, ComparedRuns, Side
from .guard import Guard
from .review import ALL, Decision, OvertakenError, Question, Review
from .schema import SCHEMA
from .scored_run import SHOWN_PX, ScoredRun

MAX_UPLOAD_BYTES = 100_000_000  # of a photograph; what it may have in pixels is --max-pixels
_STATIC = {
    "site.css": "text/css",
    "icon.svg": "image/svg+xml",
    "try.js": "text/javascript",
    "review.js": "text/javascript",
    "compare.js": "text/javascript",
}
_MOST_DECISIONS = 100  # at once
_SMALL_PX = 256  # longer side of one photograph of many
_SIDES: dict[Side, str] = {
    "": "all",
    "won": "right in this run alone",
    "lost": "wrong in this run alone",
}
_KINDS = {
    "suggestions": "Photographs to label",
    "doubtful": "Doubtful labels",
    "errors": "Confident errors",
    "duplicates": "Near-duplicates with other labels",
}

_WORDS = {"signed": compare_page.signed, "is_told": compare_page.is_told}


def make_site(
    run: ScoredRun, review: Review, runs: ComparedRuns, *, port: int, token: str
) -> Guard:
    """Return the site as an ASGI application that answers only the person at this machine."""
    site = _Site(run, review, runs)
    routes = [
        Route("/", site.try_page),
        Route("/review", site.review_page),
        Route("/static/{name}", _static),
        Route("/schema.json", lambda request: JSONResponse(SCHEMA)),
        Route("/predict", site.predict, methods=["POST"]),
        Route("/over-thresholds/{c:int}", site.over_thresholds),
        Route("/photo/{row:int}", site.photo),
        Route("/labels/{row:int}", site.labels),
        Route("/review/questions", site.questions),
        Route("/review/state", site.state),
        Route("/review/decide", site.decide, methods=["POST"]),
        Route("/review/label", site.label, methods=["POST"]),
        Route("/review/undo", site.undo, methods=["POST"]),
        Route("/compare", site.compare_page),
        Route("/compare/progress", site.compare_progress),
        Route("/compare/changed", site.changed_page),
    ]
    errors = {
        HTTPException: _http_error,
        OvertakenError: _overtaken,
        GrigriError: _our_error,
        IndexError: _not_there,
    }
    app = Starlette(routes=routes, exception_handlers=errors)
    return Guard(app, port=port, token=token, max_body_bytes=MAX_UPLOAD_BYTES)


class _Site:
    """The answers. Those that are no coroutines run in threads, so none waits for another."""

    def __init__(self, run: ScoredRun, review: Review, runs: ComparedRuns) -> None:
        self._run, self._review, self._runs = run, review, runs

    def try_page(self, request: Request) -> Response:
        info = self._run.classifier.info
        about = {
            "classes": info.class_names,
            "thresholds": info.thresholds_C.tolist(),
            "num_images": len(self._run.predictions.rows_N),
        }
        return self._page("try.html.j2", about=about)

    def review_page(self, request: Request) -> Response:
        kinds = {kind: _KINDS[kind] for kind in self._review.kinds}
        about = {"classes": self._run.data.class_names}
        return self._page("review.html.j2", about=about, kinds=kinds)

    async def predict(self, request: Request) -> Response:
        content = await request.body()
        if not content:
            raise HTTPException(400, "send the bytes of an image file as the body")
        return _answer(await run_in_threadpool(self._run.predict, content), self._run)

    def over_thresholds(self, request: Request) -> Response:
        return JSONResponse(self._run.over_thresholds(request.path_params["c"]))

    def photo(self, request: Request) -> Response:
        is_small = "small" in request.query_params
        path = self._review.path(request.path_params["row"])
        photo = self._run.photo(path, _SMALL_PX if is_small else SHOWN_PX)
        if photo.missing:
            raise HTTPException(404, photo.missing)
        # Its pixels do not change while the site is there: a file that does is not shown. The next
        # site at this port may have another photograph of this number, and has another cookie.
        headers = {"Cache-Control": "private, max-age=600", "Vary": "Cookie"}
        return Response(photo.jpeg, media_type="image/jpeg", headers=headers)

    def labels(self, request: Request) -> Response:
        return JSONResponse(self._review.labels(request.path_params["row"]))

    def questions(self, request: Request) -> Response:
        kind = request.query_params.get("kind", "")
        if kind not in self._review.kinds:
            raise HTTPException(404, f"no questions of the kind {kind[:40]!r}")
        found = self._review.asked(kind)
        if found is None:
            words, share = self._review.later[kind].progress()
            return JSONResponse({"words": words, "share": round(share, 3)}, 202)
        return JSONResponse([self._question(q) for q in found])

    def _question(self, q: Question) -> list[Any]:
        names, given = self._run.data.names, self._review.given
        if q.c == ALL:
            return [q.row, ALL, self._review.why(q.row), "", self._review.name(q.row)]
        probability = None if q.probability is None else round(q.probability, 4)
        shown = [q.row, q.c, probability, given(q.row, q.c), names[q.row]]
        return shown if q.twin is None else [*shown, q.twin, given(q.twin, q.c), names[q.twin]]

    def state(self, request: Request) -> Response:
        return self._after([*self._review.decided(), *self._review.labelled()])

    async def decide(self, request: Request) -> Response:
        try:
            said = json.loads(await request.body())
            decisions = [_decision(one) for one in (said if isinstance(said, list) else [said])]
        except (ValueError, KeyError, TypeError):
            raise HTTPException(400, "expected an object with row, c and value") from None
        if not 0 < len(decisions) <= _MOST_DECISIONS:
            raise HTTPException(400, f"expected 1 to {_MOST_DECISIONS} decisions")
        # At once, in order: decisions never overtake each other.
        return self._after(self._review.decide(*decisions))

    async def label(self, request: Request) -> Response:
        try:
            said = json.loads(await request.body())
            row, has = said["row"], said["has"]
            if type(row) is not int or not all(type(c) is int for c in has):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise HTTPException(400, "expected an object with row, and has: classes") from None
        return self._after(self._review.label(row, has))

    async def undo(self, request: Request) -> Response:
        return self._after(self._review.undo())

    def _after(self, decisions: list[Decision]) -> Response:
        """Return what a page must know after some decisions."""
        return JSONResponse(
            {
                "decisions": [[one.row, one.c, one.value] for one in decisions],
                "num_changed": self._review.num_changed,
                "num_added": self._review.num_added,
                "can_undo": self._review.can_undo,
                "file": self._review.journal.path.name,
            }
        )

    def compare_page(self, request: Request) -> Response:
        found = None
        if self._runs.num_others:
            self._runs.begin()
            compared = self._runs.compared()
            if compared is not None:
                found = compare_page.overview(self._runs, compared, self._run.data.class_names)
        return self._page(
            "compare.html.j2",
            num_others=self._runs.num_others,
            found=found,
            file=self._review.journal.path.name,
            **_WORDS,
        )

    def compare_progress(self, request: Request) -> Response:
        words, share = self._runs.progress()
        return JSONResponse({"is_done": not words, "words": words, "share": round(share, 3)})

    def changed_page(self, request: Request) -> Response:
        compared = self._runs.compared()
        if compared is None:
            return RedirectResponse("/compare", 303)
        chosen = _chosen(request, compared, len(self._run.data.class_names))
        shown = compare_page.changed(compared, self._run.data, chosen)
        return self._page("changed.html.j2", chosen=chosen, sides=_SIDES, **shown, **_WORDS)

    def _page(self, template: str, **values: Any) -> Response:
        text = html.render(template, package="grigri_fast.serving", run=self._run, **values)
        return HTMLResponse(text)


def _decision(said: dict[str, Any]) -> Decision:
    """Return what a page says of a label.

    Raises:
        HTTPException: if it is no decision.
        KeyError, TypeError: likewise.
    """
    row, c, value, before = said["row"], said["c"], said["value"], said.get("before")
    if type(row) is not int or type(c) is not int or not {value, before} <= {None, *VALUES}:
        raise HTTPException(400, f"row and c are integers, value is one of {VALUES}")
    if value is None:
        raise HTTPException(400, f"value is one of {VALUES}")
    return Decision(row, c, value, before)


def _chosen(request: Request, compared: Compared, num_classes: int) -> compare_page.Choice:
    """Return which photographs an address asks for.

    Raises:
        HTTPException: if there is no such run, class, side or page.
    """
    asked = request.query_params
    try:
        run, page = int(asked.get("run") or 1), int(asked.get("page") or 1)
        c = int(asked["class"]) if asked.get("class") else None
    except ValueError:
        raise HTTPException(404, "run, class and page are numbers") from None
    sides: dict[str, Side] = {side: side for side in _SIDES}
    side = sides.get(asked.get("side", ""))
    is_there = 0 < run < len(compared.contestants) and (c is None or 0 <= c < num_classes)
    if not is_there or side is None or page < 1:
        raise HTTPException(404, "there is no such run, class, side or page")
    return compare_page.Choice(run, c, side, page)


def _answer(prediction: Prediction, run: ScoredRun) -> Response:
    if prediction.error:
        return JSONResponse({"error": prediction.error}, 422)
    return JSONResponse(
        {
            "labels": prediction.labels,
            "probabilities": prediction.probabilities,
            "thresholds": run.classifier.thresholds,
        }
    )


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _STATIC:
        raise HTTPException(404, "there is nothing here")
    file = resources.files("grigri_fast.serving") / "static" / name
    text = file.read_text("utf-8")
    if name == "site.css":
        text = f"{html.style()}\n{text}"
    return Response(text, media_type=_STATIC[name])


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _our_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 500)


def _overtaken(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 409)


def _not_there(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "there is no such image or class"}, 404)
