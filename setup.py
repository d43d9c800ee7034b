"""Build file of greenproxy. The two lists below are the one place that names what we depend on.

`make lock` turns them into requirements.lock (to run) and requirements-dev.lock (to run and test).
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent

RUN = [
    "gevent>=24.11",
    "gevent<26; python_version < '3.11'",  # 26 has no aarch64 wheel for Python 3.10
    "orjson>=3.10",
    "pydantic>=2.9",
    "python-json-logger>=3.2",
    "pyyaml>=6.0",
    "urllib3>=2.2",
    "werkzeug>=3.0",
]
TEST = [
    "django>=4.2",  # with flask: the sample "legacy shops" of tests/apps
    "flask>=3.0",
    "hypothesis>=6.100",
    "locust>=2.32",
    "mypy>=1.13",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "ruff>=0.8",
    "types-gevent>=24.11",
    "types-pyyaml>=6.0",
]


def version() -> str:
    """Return the version that greenproxy/__init__.py states."""
    text = (HERE / "greenproxy" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise SystemExit("setup.py: greenproxy/__init__.py states no __version__")
    return match.group(1)


setup(
    name="greenproxy",
    version=version(),
    description="A secure, scalable reverse proxy and load balancer for WSGI shops.",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["greenproxy", "greenproxy.*"]),
    package_data={"greenproxy": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=RUN,
    extras_require={"test": TEST},
    entry_points={"console_scripts": ["greenproxy = greenproxy.cli:main"]},
)
