"""The page that shows the API's description, run by Node over as much of a browser's document as it asks for."""

import re
import subprocess
from pathlib import Path

from functions.api.openapi import document

PAGE = Path(__file__).parents[2] / "functions" / "api" / "docs.html"
BROWSER = """
const made = [];
const element = (name) => ({
  name, children: [], append(...more) { this.children.push(...more); }, scrollIntoView() {},
});
const places = {};
const document = {
  createElement(name) { made.push(element(name)); return made.at(-1); },
  querySelector: (selector) => (places[selector] ??= element(selector)),
  getElementById: () => null,
};
const location = { hash: "", origin: "https://api.example.test" };
const addEventListener = () => {};
const fetch = async () => ({ json: async () => JSON.parse(require("fs").readFileSync(0, "utf-8")) });
"""
TOLD = """
const text = (part) => (typeof part === "string" ? part : (part.textContent ?? "") + part.children.map(text).join(""));
setTimeout(() => console.log(Object.values(places).map(text).join("\\n")), 100);
"""


def shown(node):
    """All text of the page."""
    [script] = re.findall(r"<script>(.*?)</script>", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    program = BROWSER + "{" + script + "}" + TOLD
    done = subprocess.run(
        [*node, "-e", program], input=document(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_every_operation_and_every_schema(node_and_npm):
    text = shown(node_and_npm[0])
    operations = re.findall(r'"operationId": "(\w+)"', document())

    assert "cannot be read" not in text
    assert len(operations) > 30
    assert text.count("curl -X ") == len(operations)
    assert "GET /api/tasks/{task_id}/patch" in text
    assert "text/x-patch" in text
    assert "FileWithContents" in text
