"""A plain HTTP client: it sends the headers it is given, no redirect is followed, nothing is decoded."""

import http.client
import json as json_codec
from urllib.parse import urlsplit

from tests.fakes.lambda_client import Answer

TIMEOUT_S = 40  # more than API Gateway's 30: the runner itself gives up first


class HttpClient:
    """`path` may have a query; `json` sets the content type, `content` leaves it to `headers`."""

    def __init__(self, url):
        self._address = urlsplit(url).netloc

    def request(self, method, path, *, headers=None, json=None, content=b""):
        """Headers of the answer have lower-case names; one that came more than once has all its values."""
        headers = headers or {}
        if json is not None:
            headers, content = {"Content-Type": "application/json", **headers}, json_codec.dumps(json).encode()
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, content or None, headers)
            response = connection.getresponse()
            found = {name.lower(): ", ".join(response.headers.get_all(name)) for name in response.headers}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, **options):
        return self.request("POST", path, **options)
