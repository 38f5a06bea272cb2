"""What the cases of one file name: rows, tokens, and whatever an earlier case saved."""

import json
import re
import time
from pathlib import Path

import jwt
import yaml

TOKENS = yaml.safe_load(Path(__file__).with_name("tokens.yaml").read_text(encoding="utf-8"))["tokens"]
NAME = re.compile(r"\$\{(\w+)\}")


class Stage:
    """`values` has every `${NAME}`, and every token that `auth` can name."""

    def __init__(self, values, jwt_secret):
        self.values = values
        self.values |= {name: _token(filled(token, values), jwt_secret) for name, token in TOKENS.items()}

    def request(self, case):
        """What `HttpClient.request` is called with for a case whose names are filled in."""
        headers = dict(case.get("headers", {}))
        if case["auth"] != "none":
            headers["Authorization"] = f"Bearer {self.values[case['auth']]}"
        content = case.get("raw_body", "").encode()
        if "body" in case:
            headers = {"Content-Type": "application/json", **headers}
            content = json.dumps(case["body"]).encode()
        return {"method": case["method"], "path": case["path"], "headers": headers, "content": content}

    def save(self, paths, answer):
        """Keep parts of an answer for later cases: `{NAME: $.project.id}`."""
        for name, path in paths.items():
            value = answer
            for key in path.removeprefix("$.").split("."):
                value = value[key]
            self.values[name] = value


def filled(value, values):
    """`${NAME}` replaced everywhere; a text that is nothing else becomes the value itself, of its own type."""
    match value:
        case dict():
            return {_filled_text(key, values): filled(part, values) for key, part in value.items()}
        case list():
            return [filled(part, values) for part in value]
        case str():
            whole = NAME.fullmatch(value)
            return values[whole[1]] if whole else _filled_text(value, values)
    return value


def _filled_text(text, values):
    return NAME.sub(lambda name: str(values[name[1]]), text)


def _token(token, jwt_secret):
    if "text" in token:
        return token["text"]
    now = int(time.time())
    claims = {key: value for key, value in token["claims"].items() if value is not None}
    claims |= {key: now + claims[key] for key in ("iat", "exp") if key in claims}
    algorithm = token.get("alg", "HS256")
    return jwt.encode(claims, None if algorithm == "none" else token.get("secret", jwt_secret), algorithm)
