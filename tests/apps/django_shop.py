"""A legacy shop in Django in one file: sessions in signed cookies, forms with CSRF, uploads, files, redirects."""

from __future__ import annotations

import hashlib

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="a sample, not a secret",
    ALLOWED_HOSTS=["shop.example.com"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.sessions"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",  # all processes read them, without a database
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    APPEND_SLASH=True,
    USE_TZ=True,
)
django.setup()

from django import forms  # noqa: E402 - Django needs its settings first
from django.core.files.uploadedfile import UploadedFile  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import (  # noqa: E402
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.middleware.csrf import get_token  # noqa: E402
from django.urls import path, reverse  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402


class OrderForm(forms.Form):
    item = forms.ChoiceField(choices=[("apple", "Apple"), ("pear", "Pear")])
    count = forms.IntegerField(min_value=1, max_value=9)


def home(request: HttpRequest) -> HttpResponseBase:
    return HttpResponse("Django shop")


def where(request: HttpRequest) -> HttpResponseBase:
    return JsonResponse(
        {
            "url": request.build_absolute_uri(),
            "secure": request.is_secure(),
            "client": request.META["REMOTE_ADDR"],
            "link": reverse("order"),
        }
    )


def order(request: HttpRequest) -> HttpResponseBase:
    """Show the basket with the token of its form (GET), or add to it (POST)."""
    if request.method == "POST":
        form = OrderForm(request.POST)
        if not form.is_valid():
            return JsonResponse(form.errors, status=422)
        basket = request.session.setdefault("basket", {})
        item = form.cleaned_data["item"]
        basket[item] = basket.get(item, 0) + form.cleaned_data["count"]
        request.session.modified = True
        return HttpResponseRedirect(reverse("order"))
    return JsonResponse({"basket": request.session.get("basket", {}), "token": get_token(request)})


@csrf_exempt
def photos(request: HttpRequest) -> HttpResponseBase:
    photo = request.FILES["photo"]
    assert isinstance(photo, UploadedFile)
    digest, size = hashlib.sha256(), 0
    for block in photo.chunks():
        digest.update(block)
        size += len(block)
    return JsonResponse({"name": photo.name, "bytes": size, "sha256": digest.hexdigest()})


def report(request: HttpRequest) -> HttpResponseBase:
    rows = (f"{number},{number * number}\n" for number in range(1000))
    return StreamingHttpResponse(rows, content_type="text/csv")


def source(request: HttpRequest) -> HttpResponseBase:
    """Send a file of the disk: the way through wsgi.file_wrapper."""
    return FileResponse(open(__file__, "rb"), content_type="text/x-python")  # the response closes it


def broken(request: HttpRequest) -> HttpResponseBase:
    raise RuntimeError("the shop is broken")


urlpatterns = [
    path("", home, name="home"),
    path("where/", where, name="where"),
    path("order/", order, name="order"),
    path("photos/", photos, name="photos"),
    path("report.csv", report, name="report"),
    path("source", source, name="source"),
    path("broken", broken, name="broken"),
]

application = get_wsgi_application()
