"""Nothing outside the root is ever opened, and nothing that is not a regular file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenproxy.files import tree as tree_module
from greenproxy.files.tree import Tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "a.txt").write_text("hello")
    (root / "docs" / "b.txt").write_text("b")
    (root / "sp ace é%41.txt").write_text("odd name")
    (root / ".env").write_text("secret")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("secret")
    (tmp_path / "root-secret.txt").write_text("secret")
    return root


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


def read(root: Path, path: str) -> str | None:
    """Text of the file, "folder" for a folder, None for nothing."""
    found = Tree(str(root)).find(path)
    if found is None:
        return None
    if found.fd is None:
        return "folder"
    with os.fdopen(found.fd) as file:
        text = file.read()
    assert found.size == len(text.encode())
    assert found.mtime_ns == (root / path.lstrip("/")).stat().st_mtime_ns
    return text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.txt", "hello"),
        ("/a.txt", "hello"),
        ("/docs/b.txt", "b"),
        ("/sp ace é%41.txt", "odd name"),
        ("", "folder"),
        ("/", "folder"),
        ("/docs", "folder"),
        ("/docs/", "folder"),
        ("/docs/deep", "folder"),
        ("/missing", None),
        ("/a.txt/x", None),
        ("/A.TXT", None),
        ("/a.txt\0", None),
        ("/a.txt\0.png", None),
        ("/\udcff", None),
        ("/" + "x" * 300, None),
        ("/" + "x/" * 3000, None),
        ("/..", None),
        ("/../outside/secret.txt", None),
        ("/docs/../../outside/secret.txt", None),
        ("/docs/../a.txt", None),
        ("/./a.txt", None),
        ("/../root-secret.txt", None),
        ("//etc/passwd", None),
        ("/..\\outside\\secret.txt", None),
        ("/.env", None),
        ("/.git", None),
        ("/.git/config", None),
        ("/docs/.hidden", None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_find(root: Path, path: str, expected: str | None) -> None:
    assert read(root, path) == expected


def test_file_with_a_name_that_is_not_utf8_is_found(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.txt")).write_text("latin")
    assert read(root, "/\udcff.txt") == "latin"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("a.txt", "hello"),
        ("docs/../a.txt", "hello"),
        ("docs", "folder"),
        ("../outside/secret.txt", None),
        ("../outside", None),
        ("..", None),
        ("../root-secret.txt", None),
        ("/etc/passwd", None),
        ("/proc/self/environ", None),
        (".env", None),
        (".git/config", None),
        ("missing", None),
        ("link", None),
    ],
)
def test_symbolic_link_leads_only_to_what_could_be_asked_for(root: Path, target: str, expected: str | None) -> None:
    (root / "link").symlink_to(target)
    assert read(root, "/link") == expected


def test_link_on_the_way_does_not_lead_outside(root: Path) -> None:
    (root / "out").symlink_to("../outside")
    assert read(root, "/out/secret.txt") is None


def test_root_may_itself_be_a_link_and_be_swapped(root: Path, tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.symlink_to(root)
    tree = Tree(str(current))
    found = tree.find("/a.txt")
    assert found is not None and found.fd is not None
    os.close(found.fd)
    current.unlink()
    current.symlink_to(tmp_path / "outside")
    assert tree.find("/a.txt") is None
    found = tree.find("/secret.txt")
    assert found is not None and found.fd is not None
    os.close(found.fd)


def test_link_changed_between_check_and_open_gains_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "link").symlink_to("a.txt")
    place_of = tree_module._place

    def swap_then_place(handle: int) -> str:
        (root / "link").unlink()
        (root / "link").symlink_to("../outside/secret.txt")
        return place_of(handle)

    monkeypatch.setattr(tree_module, "_place", swap_then_place)
    found = Tree(str(root)).find("/link")
    assert found is not None and found.fd is not None
    with os.fdopen(found.fd) as file:
        assert file.read() == "hello"


def test_fifo_and_device_neither_block_nor_are_served(root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "device").symlink_to("/dev/zero")
    assert read(root, "/fifo") is None
    assert read(root, "/device") is None


def test_missing_root_is_nothing(tmp_path: Path) -> None:
    assert Tree(str(tmp_path / "gone")).find("/a.txt") is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_failure_of_the_system_is_not_taken_for_absence(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tree_module, "_open", fail)
    with pytest.raises(OSError) as caught:
        Tree(str(root)).find("/a.txt")
    assert caught.value.errno == number
