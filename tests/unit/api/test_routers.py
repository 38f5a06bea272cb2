"""Every router is mounted, and every operation has a test beside the others of its folder."""

import importlib
import json
import pkgutil
from pathlib import Path

import pytest
from fastapi import APIRouter

import functions.api
from functions.api.document import document

HERE = Path(__file__).parent
WEB = HERE / "web"  # which goes through all operations without naming what each does
PATHS = json.loads(document())["paths"]
# By the folder that they are in. The handler reads its settings when it is imported.
ROUTES = [
    (module.name.split(".")[2], route)
    for module in pkgutil.walk_packages(functions.api.__path__, "functions.api.")
    if module.name not in {"functions.api.handler", "functions.api.app"}
    for router in vars(importlib.import_module(module.name)).values()
    if isinstance(router, APIRouter)
    for route in router.routes
]


@pytest.fixture(params=ROUTES, ids=lambda found: f"{found[0]}-{found[1].name}")
def found(request):
    return request.param


def test_a_router_is_mounted(found, client):
    folder, route = found
    if route.include_in_schema:
        assert {method.lower() for method in route.methods} <= PATHS.get(route.path_format, {}).keys(), (
            f"mount the router of functions/api/{folder} in functions/api/app.py"
        )
    else:
        assert client.get(route.path).status == 200


def test_an_operation_has_a_test(found):
    """A test names the operation when it compares a response with the description (conformance.undescribed)."""
    folder, route = found
    if route.include_in_schema:
        tests = (path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*/test_*.py")) if path.parent != WEB)
        assert any(f'"{route.operation_id}"' in text for text in tests), (
            f"test that {route.operation_id} answers as described, in tests/unit/api/{folder}"
        )


def test_there_are_routers_in_every_folder_with_routes():
    folders = {path.parent.name for path in Path(functions.api.__file__).parent.glob("*/routes.py")}

    assert {folder for folder, _ in ROUTES} == folders | {"web"}
