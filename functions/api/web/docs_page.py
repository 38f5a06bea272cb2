"""The API reference for people, at /docs. One page without scripts from other servers."""

from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

PAGE = Path(__file__).with_name("docs.html")


@cache
def _page() -> str:
    return PAGE.read_text(encoding="utf-8")


@router.get("/docs", response_class=HTMLResponse)
def docs() -> str:
    return _page()
