"""Whom the compiled kernels are taken from: the ways to the cache, not only the cache itself.

That a library is compared with its hash, and what becomes of a directory that others can write, is
in `test_native_build.py`.
"""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from dynfilters.native import build, cache

pytestmark = pytest.mark.full


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A cache of the user's own, two folders deep."""
    directory = tmp_path / "home" / "cache"
    directory.mkdir(parents=True, mode=0o700)
    assert cache.distrust(directory) is None
    return directory


def test_a_folder_above_that_others_can_write(private: Path) -> None:
    """They could rename what is in it, and put a folder of theirs, or the user's older, there."""
    private.parent.chmod(0o777)
    message = cache.distrust(private)
    assert message == f"is in {private.parent}, which can be changed by other users (mode 777)"
    private.parent.chmod(0o1777)  # as /tmp is: there, nobody renames what is not theirs
    assert cache.distrust(private) is None


def test_a_folder_above_that_belongs_to_a_group(private: Path, monkeypatch) -> None:
    """The user's own, of which they are the only member, as many systems have, or others'."""
    private.parent.chmod(0o770)
    group, user = grp.getgrgid(private.parent.stat().st_gid), pwd.getpwuid(os.getuid())
    alone = group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    assert (cache.distrust(private) is None) == alone

    def members(*names: str, name: str = user.pw_name) -> None:
        entry = grp.struct_group((name, "x", group.gr_gid, list(names)))
        monkeypatch.setattr(grp, "getgrgid", lambda gid: entry)

    for names in ((), (user.pw_name,)):
        members(*names)
        assert cache.distrust(private) is None
    members("somebody")
    assert "can be changed by other users (mode 770)" in cache.distrust(private)
    members(name="staff")
    assert "can be changed by other users (mode 770)" in cache.distrust(private)
    private.parent.chmod(0o772)
    members()
    assert "can be changed by other users (mode 772)" in cache.distrust(private)


def test_a_stranger_s_folder_above(private: Path, monkeypatch) -> None:
    if os.getuid() == 0:
        os.chown(private.parent, 12345, -1)
    else:  # nobody can give away a folder but root: the user becomes another one
        real, own = Path.stat, private.parent.stat().st_uid
        monkeypatch.setattr(os, "getuid", lambda: 12345)

        def stat(path: Path, **options) -> os.stat_result:
            found = real(path, **options)
            mine = path != private.parent and found.st_uid == own
            values = list(found)
            values[4] = 12345 if mine else values[4]
            return os.stat_result(values)

        monkeypatch.setattr(Path, "stat", stat)
    message = cache.distrust(private)
    assert message.startswith(f"is in {private.parent}, which belongs to another user")


@pytest.mark.parametrize("spelled", [True, False], ids=["in the name", "where the link leads"])
def test_both_ways_through_a_link(private: Path, tmp_path: Path, spelled: bool) -> None:
    """Who can change the link, and who can change where it leads."""
    (tmp_path / "links").mkdir(mode=0o700)
    link = tmp_path / "links" / "cache"
    link.symlink_to(private)
    assert cache.distrust(link) is None
    reached = link.parent if spelled else private.parent
    reached.chmod(0o777)
    assert f"is in {reached}, which can be changed" in cache.distrust(link)


@pytest.mark.needs("root")
def test_a_stranger_s_link(private: Path, tmp_path: Path) -> None:
    """In a folder such as /tmp, where it can lead elsewhere tomorrow."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "home"
    link.symlink_to(private.parent)
    assert cache.distrust(link / "cache") is None
    os.chown(link, 12345, -1, follow_symlinks=False)
    assert (
        cache.distrust(link / "cache") == f"is behind {link}, which belongs to another user (12345)"
    )


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "symbolic links" in cache.distrust(tmp_path / "a" / "cache")


def test_a_library_is_neither_found_nor_built_there(fake_compiler, tmp_path: Path, capsys) -> None:
    """A good library, in a folder of the user's, until a folder above is anybody's."""
    library = build.find_or_build("cpu")
    assert library.path.parent == tmp_path / "cache"
    tmp_path.chmod(0o777)
    try:
        # The stand-in for /tmp is in there too.
        with pytest.raises(build.BuildError, match=f"{tmp_path}, which can be changed by other"):
            build.find_or_build("cpu")
        assert cache.find("cpu", None, [library.path.parent])[0] is None
    finally:
        tmp_path.chmod(0o700)
    assert build.find_or_build("cpu") == library


def test_the_library_itself_is_behind_the_same_checks(fake_compiler, tmp_path: Path) -> None:
    """A link in its place is followed to where it leads."""
    library = build.find_or_build("cpu")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    library.path.rename(elsewhere / "a.so")
    library.path.symlink_to(elsewhere / "a.so")
    assert cache.integrity_error(library) is None
    elsewhere.chmod(0o777)
    assert f"is in {elsewhere}, which can be changed" in cache.integrity_error(library)


def test_the_user_s_own_cache_is_private(fake_compiler, tmp_path: Path, monkeypatch) -> None:
    """Folders that this package makes, under any mask of the user."""
    monkeypatch.delenv("DYNFILTERS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "xdg").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        library = build.find_or_build("cpu")
    finally:
        os.umask(before)
    assert library.path.parent == tmp_path / "xdg" / "dynfilters"
    for path in (library.path.parent, library.path, library.path.with_suffix(".json")):
        assert path.stat().st_uid == os.getuid()
        assert path.stat().st_mode & 0o022 == 0
    assert library.path.parent.stat().st_mode & 0o777 == 0o700
    assert tempfile.gettempdir() not in str(library.path.parent)
