"""The pages, and the events that keep them fresh.

A page is a template with a body. The browser shows it at once, and is sent the body again whenever
it reads otherwise: so a page is whole without any script, too.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from swarm.dashboard import pictures
from swarm.dashboard.watching import Watch
from swarm.errors import SwarmError
from swarm.node.doctor import of_status
from swarm.node.outgoing.log import OUTGOING
from swarm.node.outgoing.query import Wanted, find, sums_of
from swarm.visible import visible, visible_lines

HERE = Path(__file__).parent
BEAT_S = 15.0
MAX_STREAMS = 64
RECORDS = 500
BLOCKS = 50
LINES = 500
LIST_FILES = 2
"""Of what left: each has 8 MiB at most, some 30,000 lines."""

Load = Callable[[Watch, Request], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Page:
    """One entry of the menu."""

    path: str
    title: str
    template: str
    load: Load


async def _now(watch: Watch, request: Request) -> dict[str, Any]:
    status = _status(watch)
    checks = of_status(status, shlex.quote(status["dir"]))
    return {
        "plans": pictures.plan_pictures(status),
        "steps": pictures.STEPS,
        "attention": [check for check in checks if check.fix],
    }


async def _members(watch: Watch, request: Request) -> dict[str, Any]:
    answer = await watch.fresh("members")
    return {
        "members": pictures.member_pictures(answer, _status(watch)),
        "proposals": answer["proposals"],
    }


async def _consent(watch: Watch, request: Request) -> dict[str, Any]:
    plans = await watch.fresh("plans")
    name = _status(watch)["name"]
    return {"listed": sorted(plans, key=lambda plan: -plan["id"]), "me": name}


async def _plan(watch: Watch, request: Request) -> dict[str, Any]:
    plan = await watch.fresh("show_plan", plan=int(request.path_params["plan"]))
    return {"plan": plan, "facts": pictures.plan_facts(plan), "me": _status(watch)["name"]}


async def _results(watch: Watch, request: Request) -> dict[str, Any]:
    found = []
    for plan in sorted(_status(watch)["plans"], key=lambda p: -p["id"]):
        if "status" in plan:
            records = (await watch.fresh("records", plan=plan["id"]))[-RECORDS:]
            tables = pictures.tables(records)
            found.append((plan, pictures.series(records), tables, records[::-1]))
    return {"results": found}


async def _models(watch: Watch, request: Request) -> dict[str, Any]:
    found = []
    for plan in sorted(_status(watch)["plans"], key=lambda p: -p["id"]):
        if "status" in plan:
            found.append((plan, (await watch.fresh("models", plan=plan["id"]))["models"][::-1]))
    return {"kept": found, "home": shlex.quote(_status(watch)["dir"])}


async def _left(watch: Watch, request: Request) -> dict[str, Any]:
    # From the files: the node would write down what it has not yet, at each look.
    folder = watch.directory / OUTGOING
    sums = await trio.to_thread.run_sync(lambda: sums_of(find(folder, Wanted(), LIST_FILES)))
    newest = sorted((s.in_words() for s in sums), key=lambda row: row["day"], reverse=True)
    home = shlex.quote(_status(watch)["dir"])
    return {"rows": newest[:LINES], "home": home}


async def _ledger(watch: Watch, request: Request) -> dict[str, Any]:
    return {"blocks": await watch.fresh("blocks", newest=BLOCKS)}


async def _node(watch: Watch, request: Request) -> dict[str, Any]:
    return {"status": _status(watch)}


PAGES = (
    Page("/", "Now", "now.html", _now),
    Page("/members", "Members", "members.html", _members),
    Page("/consent", "Consent", "consent.html", _consent),
    Page("/results", "Results", "results.html", _results),
    Page("/models", "Models", "models.html", _models),
    Page("/left", "What left", "left.html", _left),
    Page("/ledger", "Ledger", "ledger.html", _ledger),
    Page("/node", "This node", "node.html", _node),
)
PLAN_PAGE = Page("/consent/{plan:number}", "Plan", "plan.html", _plan)
"""Not in the menu: from Consent."""


class _Number(Convertor[int]):
    """Starlette's own takes as many digits as come, and Python refuses to read so many."""

    regex = "[0-9]{1,15}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())


class Dashboard:
    """The pages of one node."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._streams = 0
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "number": pictures.number,
            "size": pictures.size,
            "moment": pictures.moment,
            "joint": pictures.joint,
            "counted": pictures.counted,
            "code": _code,
            "json": json.dumps,
        }

    def app(self) -> Starlette:
        routes: list[Route | Mount] = [Mount("/static", StaticFiles(directory=HERE / "static"))]
        for page in (*PAGES, PLAN_PAGE):
            routes.append(Route(page.path, self._shower(page)))
            routes.append(Route(f"/events{page.path}", self._streamer(page)))
        routes.append(Route("/consent/{plan:number}/{answer}", self._answer, methods=["POST"]))
        routes.append(Route("/vote/{proposal:number}/{support}", self._vote, methods=["POST"]))
        return Starlette(routes=routes)

    def _shower(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def show(request: Request) -> Response:
            body = await self._body(page, request)
            seen = self._watch.seen
            name = seen.status["name"] if seen.status else str(self._watch.directory)
            context = {"page": page, "pages": PAGES, "body": Markup(body), "name": name}
            events = f"/events{request.url.path}"
            text = self._templates.get_template("base.html").render(context, events=events)
            return HTMLResponse(text)

        return show

    def _streamer(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def stream(request: Request) -> Response:
            if self._streams >= MAX_STREAMS:
                return PlainTextResponse("too many pages are open", 503)
            return StreamingResponse(self._events(page, request), media_type="text/event-stream")

        return stream

    async def _events(self, page: Page, request: Request) -> AsyncIterator[str]:
        self._streams += 1
        try:
            last = ""
            while True:
                body = await self._body(page, request)
                yield ": alive\n\n" if body == last else _event("body", body)
                last = body
                await self._watch.change(BEAT_S)
        finally:
            self._streams -= 1

    async def _body(self, page: Page, request: Request) -> str:
        """What the page shows now; what cannot be had is said in its place."""
        seen = self._watch.seen
        context: dict[str, Any] = {"fault": seen.fault, "at": seen.at}
        template = page.template
        try:
            context |= await page.load(self._watch, request)
        except SwarmError as error:
            context["fault"], template = str(error), "silent.html"
        return self._templates.get_template(template).render(context)

    async def _answer(self, request: Request) -> Response:
        plan, answer = int(request.path_params["plan"]), request.path_params["answer"]
        methods: Mapping[str, dict[str, Any]] = {
            "consent": {"path": None},
            "decline": {},
            "withdraw": {},
        }
        if answer not in methods:
            return PlainTextResponse(f"there is no answer {answer!r}", 404)
        return await self._do(request, answer, plan=plan, **methods[answer])

    async def _vote(self, request: Request) -> Response:
        support = request.path_params["support"]
        if support not in ("yes", "no"):
            return PlainTextResponse(f"there is no vote {support!r}", 404)
        proposal = int(request.path_params["proposal"])
        return await self._do(request, "vote", proposal=proposal, support=support == "yes")

    async def _do(self, request: Request, method: str, /, **arguments: object) -> Response:
        """Ask the node for it, and say what became of it."""
        try:
            await self._watch.ask(method, **arguments)
            words, tone = "Done; the chain has it.", "good"
        except SwarmError as error:
            words, tone = str(error), "bad"
        self._watch.forget()
        text = self._templates.get_template("outcome.html").render(words=words, tone=tone)
        return HTMLResponse(text)


def _status(watch: Watch) -> dict[str, Any]:
    """The newest status. Raises the fault, if none was ever heard."""
    if watch.seen.status is None:
        raise SwarmError(watch.seen.fault)
    return watch.seen.status


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n"


def _shown(value: object) -> object:
    """Foreign text cannot hide anything: controls are shown as what they are."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _code(text: str) -> Markup:
    """Code, line by line."""
    return Markup("\n").join(visible_lines(text))
