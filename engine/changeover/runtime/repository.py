"""A model repository on disk, `NAME/VERSION/` with an optional `NAME/policy.toml`: what came since the last look.

`look` blocks and runs in a thread; it costs one listing of the repository and one of each model's folder, and reads
only what is new. It never takes anything away: what has vanished from the disk stays as it was. Owns nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping
from pathlib import Path

import attrs

from changeover.core.checks import word
from changeover.core.policy import ModelPolicy
from changeover.core.values import VersionKey, VersionSpec
from changeover.errors import InvalidValue
from changeover.runtime.folders import POLICY, read_policy, read_version

State = tuple[object, ...]
"""What a folder or a file looked like: names, sizes and times of change; two that are equal look the same."""

Known = Callable[[str], Container[str]]
"""Returns the versions of a model that need not be looked at."""


@attrs.frozen
class Sight:
    """What one look saw of something that it did not know."""

    state: State
    judged: bool
    """True where it was read in this state: it was taken, or is a problem that has been told."""


Memory = Mapping[str, Sight]
"""What the last look saw, by path."""


@attrs.frozen
class Found:
    """What a look at a repository came to."""

    specs: tuple[VersionSpec, ...]
    """Every version that is new and can be registered, by name."""
    problems: tuple[str, ...]
    """Everything new that cannot be taken, with the reason."""
    policies: Mapping[str, ModelPolicy]
    """The policies that were read, by model: those of files that are new or have changed."""
    memory: Memory
    """For the next look."""


def look(
    repository: Path, known: Known, before: Memory, *, at_once: bool, left: frozenset[VersionKey] = frozenset()
) -> Found:
    """Look for what is new; raises `InvalidValue` where the repository is gone or cannot be listed. Blocks.

    What somebody may still be writing is taken once two looks in a row saw it in the same state, or `at_once`. What is
    `left` alone was taken once, and is not again before it changes, or `at_once`.
    """
    if not repository.is_dir():
        raise InvalidValue(f"the repository {repository} is not a folder; make it, or leave the argument out")
    seen = _Look(repository, known, before, left, at_once=at_once)
    try:
        models = _entries(str(repository))
    except OSError as error:
        raise InvalidValue(f"the repository {repository} cannot be read: {error}") from error
    for model in models:
        seen.model(model)
    return Found(tuple(seen.specs), tuple(seen.problems), seen.policies, seen.memory)


class _Look:
    """One look, and what it has come to so far."""

    def __init__(
        self, repository: Path, known: Known, before: Memory, left: frozenset[VersionKey], *, at_once: bool
    ) -> None:
        self.specs: list[VersionSpec] = []
        self.problems: list[str] = []
        self.policies: dict[str, ModelPolicy] = {}
        self.memory: dict[str, Sight] = {}
        self._home = os.path.realpath(repository)
        self._known = known
        self._before = before
        self._left = left
        self._at_once = at_once

    def model(self, entry: os.DirEntry[str]) -> None:
        """Look into a model's folder; what goes wrong in it is no other model's problem."""
        try:
            if not entry.is_dir():
                return
            if entry.is_symlink() and self._leads_out(entry):
                return
            new = _entries(entry.path, self._known(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            self._remember(entry.path)  # it has just vanished; if it comes back, then as it was
            return
        except OSError as error:
            failure = error
            self._remember(entry.path)
            self._judge(entry.path, (str(error),), lambda: _raise(failure))
            return
        for one in new:
            self._inside_model(entry.name, one)

    def _inside_model(self, model: str, entry: os.DirEntry[str]) -> None:
        """Look at a version's folder, or at the policy; other files are nobody's business."""
        try:
            is_policy = entry.name == POLICY
            if not (entry.is_file() if is_policy else entry.is_dir()):
                return
            if entry.is_symlink() and self._leads_out(entry):
                return
            if is_policy:
                self._judge(entry.path, _state(entry), lambda: self._take_policy(model, entry.path))
            else:
                state = _state_of_folder(entry.path)
                if entry.path not in self._before and VersionKey(model, entry.name) in self._left and not self._at_once:
                    self.memory[entry.path] = Sight(state, judged=True)
                else:
                    self._judge(entry.path, state, lambda: self._take_version(entry.path))
        except FileNotFoundError:
            return  # it has just vanished
        except OSError as error:
            failure = error
            self._judge(entry.path, (str(error),), lambda: _raise(failure))

    def _judge(self, path: str, state: State, take: Callable[[], None]) -> None:
        """Take what is in this state, unless that has been tried, or somebody may still be writing it."""
        before = self._before.get(path)
        is_steady = before is not None and before.state == state
        if is_steady and before is not None and before.judged and not self._at_once:
            self.memory[path] = before
            return
        judged = is_steady or self._at_once
        self.memory[path] = Sight(state, judged)
        if judged:
            try:
                take()
            except Exception as error:  # noqa: BLE001 - whatever one folder holds, the others are taken
                self.problems.append(f"{path}: {error}")

    def _take_version(self, folder: str) -> None:
        self.specs.append(read_version(Path(folder)))

    def _take_policy(self, model: str, file: str) -> None:
        self.policies[word("model", model)] = read_policy(Path(file))

    def _leads_out(self, entry: os.DirEntry[str]) -> bool:
        """Return whether a link leads out of the repository, and say so."""
        target = os.path.realpath(entry.path)
        if Path(target).is_relative_to(self._home):
            return False
        text = f"it is a link that leads out of the repository, to {target}"
        self._judge(entry.path, (target,), lambda: _raise(InvalidValue(text)))
        return True

    def _remember(self, model: str) -> None:
        """Keep what is known of a model's folder that could not be looked into just now."""
        inside = model + os.sep
        self.memory.update({path: sight for path, sight in self._before.items() if path.startswith(inside)})


def _entries(folder: str, known: Container[str] = ()) -> list[os.DirEntry[str]]:
    """Return what else a folder holds, by name, but for what begins with a dot; raises `OSError`."""
    with os.scandir(folder) as entries:
        new = [entry for entry in entries if entry.name not in known and not entry.name.startswith(".")]
    new.sort(key=lambda entry: entry.name)
    return new


def _state(entry: os.DirEntry[str]) -> State:
    status = entry.stat()
    return status.st_size, status.st_mtime_ns


def _state_of_folder(folder: str) -> State:
    """Return names, sizes and times of change of all that lies below a folder; raises `OSError`."""
    found: list[State] = []
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                found.append((entry.path, status.st_size, status.st_mtime_ns))
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return tuple(sorted(found, key=str))


def _raise(error: Exception) -> None:
    raise error
