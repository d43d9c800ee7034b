"""A visitor of a shop: keeps one connection and its cookies, fills in forms, as a browser does.

Leaves to:  harness/client.py the bytes; the test what must come back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tests.harness.client import Address, RawClient
from tests.harness.message import Response

HOST = "shop.example.com"
BOUNDARY = "----visitor-boundary"


class Visitor:
    """`mount` is put before every path; `fields` are sent with every request."""

    def __init__(self, address: Address, mount: str, fields: Mapping[str, str]) -> None:
        self._client = RawClient(address)
        self._mount = mount
        self._fields = {"Host": HOST, **fields}
        self._cookies: dict[str, str] = {}

    def close(self) -> None:
        self._client.close()

    def request(self, method: str, path: str, body: bytes = b"", **fields: str) -> Response:
        """Send one request; X_Some_Name=... becomes X-Some-Name."""
        headers = {**self._fields, **{name.replace("_", "-"): value for name, value in fields.items()}}
        if self._cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        if body and "Transfer-Encoding" not in headers:
            headers["Content-Length"] = str(len(body))
        lines = [f"{method} {self._mount}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        response = self._client.request("\r\n".join(lines).encode() + b"\r\n\r\n" + body, method)
        self._keep_cookies(response)
        return response

    def get(self, path: str) -> Response:
        return self.request("GET", path)

    def get_json(self, path: str) -> Any:
        """GET a page that must be there, as parsed JSON."""
        return parsed(self.get(path))

    def post(self, path: str, **fields: str) -> Response:
        """Send a form."""
        return self.request(
            "POST", path, urlencode(fields).encode(), Content_Type="application/x-www-form-urlencoded",
            Referer=f"https://{HOST}/",
        )  # fmt: skip

    def upload(self, path: str, field: str, filename: str, data: bytes, **fields: str) -> Any:
        """Send a form with a file, and give the JSON that came back."""
        parts = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items()
        ]
        parts.append(
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = "".join(parts).encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
        return parsed(self.request("POST", path, body, Content_Type=f"multipart/form-data; boundary={BOUNDARY}"))

    def _keep_cookies(self, response: Response) -> None:
        for line in response.all("set-cookie"):
            name, _, value = line.decode().partition(";")[0].partition("=")
            self._cookies[name] = value


def parsed(response: Response) -> Any:
    """Give the JSON of a response that must be 200."""
    assert response.status == 200, f"{response.status} {response.body!r}"
    return json.loads(response.body)
