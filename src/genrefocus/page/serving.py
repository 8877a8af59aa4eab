"""The server of the page: at one address, with nothing from elsewhere."""

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrefocus.page.handlers import Page

_CSS = """
footer {display: none !important}
#preview img {cursor: crosshair}
#examples .grid-container {grid-template-columns: repeat(4, minmax(0, 1fr)); padding-top: 24px}
#examples .thumbnail-item {height: 60px}
"""
_POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
_ANYWHERE = ("0.0.0.0", "::")


class OnlyOwn:
    """The browser loads nothing from elsewhere, and the server fetches nothing for it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the policy to every answer; refuse to be a proxy, which Gradio would be."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", _POLICY.encode()))
            await send(message)

        path = scope.get("path", "")
        if "file=http" in path or "proxy=" in path:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, sent)


def application(page: Page, host: str, most_bytes: int) -> FastAPI:
    """The page as a web application.

    Args:
        page: to serve.
        host: that it is bound to; requests that name another host are refused, but for those of
            a page that is bound to all addresses.
        most_bytes: of an uploaded file.
    """
    app = FastAPI(openapi_url=None)
    app.add_middleware(OnlyOwn)
    hosts = ["*"] if host in _ANYWHERE else [host, "localhost", "127.0.0.1", "[::1]"]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    page.blocks.queue(default_concurrency_limit=1, max_size=64)
    return gr.mount_gradio_app(
        app,
        page.blocks,
        path="/",
        show_error=False,
        max_file_size=most_bytes,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(
            font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
        ),
        css=_CSS,
    )


def server(app: FastAPI) -> uvicorn.Server:
    """What answers for the application: ``run(sockets=[...])`` until it is interrupted."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
