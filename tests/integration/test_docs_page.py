"""The page that shows the API's description, run by Node over as much of a browser's document as it asks for."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from functions.api.document import document

PAGE = Path(__file__).parents[2] / "functions" / "api" / "web" / "docs.html"
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
REQUESTS = TOLD.replace(
    'Object.values(places).map(text).join("\\n")', "JSON.stringify(made.filter(({ name }) => name === 'pre').map(text))"
)


def shown(node, what=TOLD):
    """All text of the page, or what else is asked for."""
    [script] = re.findall(r"<script>(.*?)</script>", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    program = BROWSER + "{" + script + "}" + what
    done = subprocess.run(
        [*node, "-e", program], input=document(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_every_operation_and_every_schema(node_and_npm):
    text = shown(node_and_npm[0])
    operations = re.findall(r'"operationId": "(\w+)"', document())

    assert "could not be loaded" not in text
    assert len(operations) > 30
    assert text.count("curl -X ") == len(operations)
    assert "GET /api/tasks/{task_id}/patch" in text
    assert "text/x-patch" in text
    assert "FileWithContents" in text


def test_each_curl_line_has_all_that_its_operation_requires(node_and_npm):
    boxes = json.loads(shown(node_and_npm[0], REQUESTS))
    requests = [shlex.split(box) for box in boxes if box.startswith("curl ")]
    operations = [operation for methods in json.loads(document())["paths"].values() for operation in methods.values()]
    sent = {(words[2], urlsplit(words[3]).path): words for words in requests}

    assert len(requests) == len(operations)
    assert urlsplit(sent["GET", "/api/tasks/7/files/content"][3]).query == "path=README.md"
    assert json.loads(sent["POST", "/api/start-task"][-1]).keys() == {"prompt", "repo_url", "github_token", "branch"}
    bodies = [json.loads(words[-1]) for words in requests if "-d" in words]
    assert len(bodies) == sum("requestBody" in operation for operation in operations)
