"""A legacy shop in Flask, as its owners left it: sessions, forms, uploads, downloads, redirects."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

from flask import Flask, Response, abort, flash, get_flashed_messages, redirect, request, send_file, session, url_for
from flask.typing import ResponseReturnValue

app = Flask(__name__, static_folder="static")
app.secret_key = "a sample, not a secret"
PRICES = {"apple": 30, "pear": 45}


@app.get("/")
def home() -> str:
    return "Flask shop"


@app.get("/where")
def where() -> dict[str, str | None]:
    return {"url": request.url, "root": request.url_root, "client": request.remote_addr, "link": url_for("basket")}


@app.post("/basket")
def add() -> ResponseReturnValue:
    item = request.form["item"]
    if item not in PRICES:
        abort(404)
    basket = session.get("basket", {})
    basket[item] = basket.get(item, 0) + int(request.form.get("count", "1"))
    session["basket"] = basket
    flash(f"{item} added – danke")
    return redirect(url_for("basket"))


@app.get("/basket")
def basket() -> dict[str, object]:
    chosen = session.get("basket", {})
    return {
        "items": chosen,
        "total": sum(PRICES[item] * count for item, count in chosen.items()),
        "messages": get_flashed_messages(),
    }


@app.get("/go")
def go() -> ResponseReturnValue:
    """Redirect to an absolute address, as old code does."""
    return redirect(url_for("home", _external=True))


@app.post("/photos")
def photos() -> dict[str, object]:
    photo = request.files["photo"]
    data = photo.read()
    return {"name": photo.filename, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **request.form}


@app.put("/raw")
def raw() -> dict[str, object]:
    """Take a body of any framing, a chunked one too."""
    data = request.get_data()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@app.get("/report.csv")
def report() -> Response:
    def rows() -> Iterator[str]:
        for number in range(1000):
            yield f"{number},{number * number}\n"

    return Response(rows(), mimetype="text/csv")


@app.get("/invoice")
def invoice() -> Response:
    return send_file(
        io.BytesIO(b"%PDF-" + b"x" * 50_000), download_name="Rechnung für Ä.pdf", mimetype="application/pdf"
    )


@app.get("/page/<path:name>")
def page(name: str) -> str:
    return name


@app.get("/broken")
def broken() -> str:
    raise RuntimeError("the shop is broken")
