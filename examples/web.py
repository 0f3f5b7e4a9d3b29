"""A small web service that runs Python for its clients, and streams what it prints.

    python examples/web.py [--port 8000]

    curl -N http://127.0.0.1:8000/run -d 'import time
    for i in range(3): print(i); time.sleep(1)'

Each request gets a fresh session from a pool and a line of JSON for each thing that happens. What a
client may cost is bounded: the size of its code, its time, its output, and how many wait.

The workers are processes of this user: they keep clients apart from each other and from the
service, and do not keep hostile code from this user's files. That takes a container around it.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pyrepl_kernel import ExecutionTimeout, PoolConfig, PoolError, Session, SessionPool, WorkerDied

Event = dict[str, Any]

CODE_LIMIT = 64 * 1024  # bytes
OUTPUT_LIMIT = 256 * 1024  # characters
TIME_LIMIT = 5.0  # seconds

POOL = PoolConfig(
    min_idle=2, max_sessions=4, max_waiting=8, acquire_timeout=10, warmup_code="import json, math"
)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """The pool lives as long as the service."""
    async with SessionPool(POOL) as pool:
        yield {"pool": pool}


async def run(request: Request) -> Response:
    """Run the body of the request in a session of its own."""
    code = b""
    async for chunk in request.stream():
        code += chunk
        if len(code) > CODE_LIMIT:
            return JSONResponse({"error": f"code is over {CODE_LIMIT} bytes"}, 413)
    events = in_session(request.state.pool, code.decode("utf-8", "replace"))
    try:
        began = await anext(events)
    except PoolError as error:
        return JSONResponse({"error": str(error)}, 503, headers={"Retry-After": "5"})
    return StreamingResponse(lines(began, events), media_type="application/x-ndjson")


async def lines(first: Event, others: AsyncGenerator[Event]) -> AsyncIterator[str]:
    """Events as lines of JSON. When the client goes, the cell is interrupted."""
    async with aclosing(others):
        yield json.dumps(first) + "\n"
        async for event in others:
            yield json.dumps(event) + "\n"


async def in_session(pool: SessionPool, code: str) -> AsyncGenerator[Event]:
    """Run code in a session that nobody used before; its events, the end as the last."""
    async with pool.session() as session:
        yield {"type": "begin", "session": session.session_id}
        try:
            async with aclosing(limited(session, code)) as events:
                async for event in events:
                    yield event
        except ExecutionTimeout:
            yield {"type": "end", "status": f"stopped: ran over {TIME_LIMIT:g} s"}
        except WorkerDied as death:
            yield {"type": "end", "status": f"the worker {death.reason}"}


async def limited(session: Session, code: str) -> AsyncGenerator[Event]:
    """A cell's messages as plain values, up to the limit of output."""
    left = OUTPUT_LIMIT
    async with aclosing(session.execute(code, timeout=TIME_LIMIT)) as messages:
        async for message in messages:
            event = describe(message)
            left -= len(json.dumps(event))
            if left < 0:
                yield {"type": "end", "status": f"stopped: output over {OUTPUT_LIMIT} characters"}
                return
            if event:
                yield event


def describe(message: Any) -> Event:
    """A message of the session, as clients see it; empty for what is not for them."""
    match message.type:
        case "output":
            return {"type": message.stream, "text": message.data}
        case "display":
            return {"type": message.kind, "data": message.data}
        case "error":
            return {"type": "error", "name": message.ename, "text": message.evalue}
        case "result":
            return {"type": "end", "status": message.status}
    return {}


async def health(request: Request) -> Response:
    """The pool's numbers."""
    stats = request.state.pool.stats()
    return JSONResponse({"idle": stats.idle, "busy": stats.busy, "waiting": stats.waiting})


app = Starlette(
    routes=[Route("/run", run, methods=["POST"]), Route("/health", health)], lifespan=lifespan
)


def main() -> None:
    """Serve on this machine only."""
    parser = argparse.ArgumentParser(description="Run Python for clients on this machine.")
    parser.add_argument("--port", type=int, default=8000)
    config = uvicorn.Config(app, host="127.0.0.1", port=parser.parse_args().port, log_level="info")
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
