"""What the code no longer calls is removed. What only tests call counts as not called."""

from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).parents[2]
FOLDERS = ("functions", "shared", "sandbox", "local", "bench", "tools")
KINDS = {"function", "method", "class", "import", "property"}  # fields of models are read by their names
CONFIDENCE = 60  # per cent; vulture's own default
# Called by a library, by their names.
CALLED_BY_OTHERS = {
    *("convert", "to_string"),  # Starlette, of a path convertor
    "redirect_request",  # urllib
    "get_remaining_time_in_millis",  # Lambda's context, for the code of a handler
    *("list_dir", "make_dir", "send_input", "stream_input"),  # Connect, as methods of envd's services
    "restart_queue",  # of the stack, for tests of what the queue forgets
}


def unused(folders):
    vulture = Vulture()
    vulture.scavenge([str(folder) for folder in folders])
    for item in vulture.get_unused_code(min_confidence=CONFIDENCE):
        text = item.filename.read_text().splitlines()[item.first_lineno - 1]
        if item.typ in KINDS and not text.lstrip().startswith("@"):  # a decorator registers it
            yield item


def only_for_types(item):
    """An import below `if TYPE_CHECKING:` is named in strings."""
    return item.typ == "import" and item.filename.read_text().count(item.name) > 1


def test_nothing_is_left_that_the_code_does_not_use():
    left = [item for item in unused(ROOT / folder for folder in FOLDERS) if not only_for_types(item)]
    names = {item.name for item in left}

    assert [item.get_report() for item in left if item.name not in CALLED_BY_OTHERS] == []
    assert names >= CALLED_BY_OTHERS


def test_a_function_that_is_not_called_is_found(tmp_path):
    (tmp_path / "module.py").write_text("import os\n\n\ndef called():\n    pass\n\n\ndef left():\n    called()\n")

    assert {item.name for item in unused([tmp_path])} == {"os", "left"}
