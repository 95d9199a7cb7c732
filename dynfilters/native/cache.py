"""The cache of compiled libraries: which folders are trusted, and which library fits.

Beside each library NAME.so lies NAME.json, its facts:

    recipe: hash of its sources and flags.     machine: system and instruction set.
    requires: x86 instruction sets that the processor must have.     arch: GPUs that it serves.
    prebuilt: made ahead of use by `dynfilters build`.     sha256: of the library itself.
    march, flags, compiler, version, torch, seconds: how it was made.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynfilters.native import toolchain
from dynfilters.native.toolchain import BuildError

MACHINE = f"{platform.system()} {platform.machine()}"


@dataclass(frozen=True)
class Library:
    """A compiled library and its facts, see the module."""

    path: Path
    facts: dict[str, Any]


def directories() -> list[Path]:
    """Where libraries are looked for; they are built in the first that can be written.

    $DYNFILTERS_CACHE, else dynfilters in the user's cache; then a private temporary directory.
    """
    found = []
    if named := os.environ.get("DYNFILTERS_CACHE"):
        found.append(Path(named).expanduser().absolute())
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if os.path.isabs(base):  # "~" stays where there is no home
            found.append(Path(base) / "dynfilters")
    return [*found, Path(tempfile.gettempdir()) / f"dynfilters-{os.getuid()}"]


def distrust(path: Path) -> str | None:
    """Returns why code at `path` must not be run, if another user could have put it there.

    As it is spelled, and with its links followed: who can rename a folder of either way, or change
    a link, can put another in the place of all below.
    """
    try:
        facts = path.lstat() if path.parent == Path(tempfile.gettempdir()) else path.stat()
        if reason := _within_reach(facts):
            return reason
        parents = path.absolute().parents
        for place in {*parents, *path.resolve().parents}:
            if reason := _within_reach(place.stat(), parent=True):
                return f"is in {place}, which {reason}"
        for place in (place for place in parents if place.is_symlink()):
            if reason := _within_reach(place.lstat(), parent=True, link=True):
                return f"is behind {place}, which {reason}"
    except (OSError, RuntimeError) as error:  # the latter for links in a circle
        return getattr(error, "strerror", None) or str(error)
    return None


def _within_reach(facts: os.stat_result, parent: bool = False, link: bool = False) -> str | None:
    """Returns which other users can change a file or folder, or None.

    A parent folder may also be sticky, or writable for a private group.

    Above it, owners that this system does not know, as outside of a container, are nobody here.
    """
    trusted = {os.getuid(), 0, *([_unknown_user()] if parent else [])}
    if facts.st_uid not in trusted:
        return f"belongs to another user ({facts.st_uid})"
    others = facts.st_mode & 0o022
    sticky = parent and facts.st_mode & stat.S_ISVTX
    private = parent and others == 0o020 and _is_private(facts.st_gid)
    if link or not others or sticky or private:  # that of a link is 777 and means nothing
        return None
    return f"can be changed by other users (mode {stat.S_IMODE(facts.st_mode):o})"


def _is_private(gid: int) -> bool:
    """Returns whether the group has no other member: many systems have one for each user."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _unknown_user() -> int:
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 0


def writable_directory(candidates: list[Path]) -> Path:
    """The first of `candidates` that is this user's alone and can be written, made if need be."""
    reasons = []
    for directory in candidates:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            reason = distrust(directory)
            if reason is None:
                with tempfile.NamedTemporaryFile(dir=directory):
                    return directory
        except OSError as error:
            reason = error.strerror or str(error)
        reasons.append(f"{directory}: {reason}")
    raise BuildError(
        f"no directory to build in ({'; '.join(reasons)})",
        "set DYNFILTERS_CACHE to a directory that only you can write",
    )


def find(device: str, key: str | None, candidates: list[Path]) -> tuple[Library | None, list[str]]:
    """Returns the best library for `device`, and notes on those that were passed over.

    The one called `key` comes first: this machine's compiler, as it is now, made it. Then
    libraries made ahead of use, the most demanding first. Without a `key`, because there is no
    compiler, whatever runs here will do.
    """
    found, notes = [], []
    for directory in candidates:
        if not directory.is_dir():
            continue
        if reason := distrust(directory):
            notes.append(f"{directory} {reason}")
            continue
        for file in directory.glob(f"filter2d_{device}_*.json"):
            library = _read(file)
            own = library is not None and file.stem == key
            if library and (own or key is None or library.facts.get("prebuilt")):
                found.append((own, len(library.facts.get("requires", [])), library))
    for _, _, library in sorted(found, key=lambda entry: entry[:2], reverse=True):
        reason = misfit(library, device) or integrity_error(library)
        if reason is None:
            return library, notes
        notes.append(f"{library.path} {reason}")
    return None, notes


def load_verified(path: Path) -> Library | None:
    """Returns the library at `path` if its hash is right and nobody else can write it, or None."""
    library = _read(path.with_suffix(".json"))
    return library if library and integrity_error(library) is None else None


def _read(file: Path) -> Library | None:
    try:
        facts = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return Library(file.with_suffix(".so"), facts) if isinstance(facts, dict) else None


def misfit(library: Library, device: str) -> str | None:
    """Returns why a library is of another version, or cannot run on this machine, or None."""
    facts = library.facts
    if facts.get("recipe") != toolchain.recipe(device):
        return "was built from other sources"
    if facts.get("machine") != MACHINE:
        return f"is for {facts.get('machine')}, this is {MACHINE}"
    if lacking := toolchain.missing_instruction_sets(facts.get("requires", [])):
        return f"needs {', '.join(lacking)}, which this processor lacks"
    if device == "cuda":
        here = toolchain.capabilities()
        unserved = [f"{a}.{b}" for a, b in here if not toolchain.serves(facts["arch"], (a, b))]
        if unserved:
            return f"is for GPUs of {', '.join(facts['arch'])}, here is {', '.join(unserved)}"
    return None


def integrity_error(library: Library) -> str | None:
    """Returns why the file may not be what was compiled: damaged, or writable by others."""
    try:
        content = library.path.read_bytes()
    except OSError as error:
        return error.strerror or str(error)
    if hashlib.sha256(content).hexdigest() != library.facts.get("sha256"):
        return "is damaged"
    return distrust(library.path)


def store(scratch: Path, library: Library) -> Library:
    """Moves the file `scratch` to the library's path and writes its facts beside it.

    Each appears whole or not at all. One without the other, or with another's, is taken for
    damaged, and compiled anew.
    """
    content = hashlib.sha256(scratch.read_bytes()).hexdigest()
    library = Library(library.path, {**library.facts, "sha256": content})
    facts = scratch.with_suffix(".json")
    facts.write_text(json.dumps(library.facts, indent=2, sort_keys=True))
    scratch.chmod(0o755)
    facts.chmod(0o644)
    os.replace(scratch, library.path)
    os.replace(facts, library.path.with_suffix(".json"))
    return library
