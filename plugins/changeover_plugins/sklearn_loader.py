"""Loads scikit-learn estimators from `.skops` files; runs no code of the file's author.

A `SklearnModel` owns one fitted estimator until `close`. It never reads a pickle, never trusts a type that neither
skops nor the version's options name, and imports scikit-learn when a load asks for it, not before.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from zipfile import ZipFile

import attrs

from changeover.errors import LoaderNotInstalled
from changeover.plugin import API_VERSION, Model, Source
from changeover_plugins.options import COUNT, Needed, is_count, is_names, read_options, version_name
from changeover_plugins.sklearn_model import Asker, SklearnModel, changes_filters, check_estimator, read_signature

_OWN = ("sklearn", "scipy.sparse")
"""The packages whose classes do nothing but hold what they are given when they are made with arguments of a file."""
_PICKLED = frozenset({".pkl", ".pickle", ".joblib"})
_PICKLE_MARK = b"\x80"  # every pickle since protocol 2 begins with it
_DTYPES = ("float64", "float32", "int64", "int32", "object")
_SAVED_WITH = re.compile(rb'"_sklearn_version": \{[^{}]*"content": "\\"([^"\\]+)\\""')
_SCHEMA = "schema.json"


@attrs.frozen
class _Options:
    """The loader's settings, checked."""

    trusted: Sequence[str] = ()
    """Types to load beyond those that skops trusts, by their full names."""
    dtype: str = "float64"
    """What requests must send; scikit-learn itself computes in float64 unless told otherwise."""
    probabilities: bool = True
    """False leaves out `predict_proba`, which costs as much again as `predict`."""
    max_unpacked_bytes: int = 2 << 30
    """The most that the file may unpack to, in bytes."""


class SklearnLoader:
    """Loads one `.skops` file as a model with the input "X" and the output "label" or, for a regressor, "value".

    A classifier that knows them also gives "probabilities". The options are `trusted` (full names of types to load
    beyond those that skops trusts), `dtype` of "X" (default "float64"), `probabilities` (default true) and
    `max_unpacked_bytes` (default 2 GiB).
    """

    api_version: ClassVar[int] = API_VERSION

    # False, because a file alone brings no code: skops sets attributes on classes that are installed here, checks the
    # name of each before it imports any, and by default trusts scikit-learn's estimators only. What would change that
    # is `trusted`: skops *calls* a trusted name with arguments out of the file. Options may stand in a `model.toml`
    # beside the file, so whoever drops that folder could write `trusted = ["subprocess.Popen"]`. Hence an option can
    # trust the classes of `_OWN` packages, and for everything else the version must also have `allow_code=True`, which
    # no file can say (test_a_name_that_runs_code_needs_more_than_an_option).
    executes_code_on_load: ClassVar[bool] = False

    def load(self, source: Source) -> Model:
        """Read the file that `source.location` names, and ask the estimator about a row of zeros to learn its outputs.

        Raises ValueError for a file or an estimator that cannot be served, a type that is not trusted or a wrong
        option; FileNotFoundError and IsADirectoryError; LoaderNotInstalled without skops, scikit-learn or pandas.
        """
        path = source.file()
        options = read_options(source, "sklearn", _NEEDED, _Options)
        _refuse_pickle(path, source)
        packages = _import_packages(source)
        foreign = [name for name in options.trusted if not _is_own(name)]
        if foreign and not source.allow_code:
            raise ValueError(_explain_foreign(foreign, source))
        with path.open("rb") as file:
            unpacked_bytes = _measure(file, path, options, source)
            estimator = _read(packages, file, path, options, source)
        check_estimator(estimator, _where(path, source))
        ask = Asker(
            estimator,
            "value" if packages["sklearn.base"].is_regressor(estimator) else "label",
            probabilities=options.probabilities,
            frame=_framing(estimator, path, source),
        )
        signature = read_signature(estimator, ask, options.dtype)
        # scikit-learn promises nothing about threads, but tests each of its estimators for leaving its `__dict__` alone
        # in predict and predict_proba (check_dict_unchanged). Of other packages' types nobody knows.
        thread_safe = not foreign and not changes_filters(estimator)
        return SklearnModel(ask, signature, unpacked_bytes, thread_safe=thread_safe)


# --- before anything is read ----------------------------------------------------------------------------------------


def _is_full_names(value: object) -> bool:
    """Return whether the value is a list of names with a dot in them."""
    return is_names(value) and all("." in name.strip(".") for name in value)


_NEEDED: Needed = {
    "trusted": (_is_full_names, 'a list of full names, as in ["sklearn.tree._tree.Tree"]'),
    "dtype": (lambda value: value in _DTYPES, f"one of {', '.join(_DTYPES)}"),
    "probabilities": (lambda value: isinstance(value, bool), "true or false"),
    "max_unpacked_bytes": (is_count, COUNT),
}


def _refuse_pickle(path: Path, source: Source) -> None:
    """Raise ValueError for a file that is a pickle, by its name or by how it begins."""
    with path.open("rb") as file:
        start = file.read(1)
    if path.suffix.lower() in _PICKLED or start == _PICKLE_MARK:
        raise ValueError(
            f"{_where(path, source)} is a pickle, which runs its author's code when it is loaded; where "
            'you trust it, load it once and write it as skops.io.dump(model, "model.skops")'
        )


def _import_packages(source: Source) -> dict[str, Any]:
    """Return the modules that a load needs, which have no type information; raises LoaderNotInstalled."""
    try:
        return {name: importlib.import_module(name) for name in ("skops.io", "sklearn.base")}
    except ImportError as error:
        raise _not_installed("skops and scikit-learn", error, '"changeover[sklearn]"', source) from error


def _not_installed(what: str, error: ImportError, package: str, source: Source) -> LoaderNotInstalled:
    """Return the error that says what to install."""
    return LoaderNotInstalled(
        f"{version_name(source)}: the sklearn loader needs {what} ({error}); install with: pip install {package}",
        model=source.model,
        version=source.version,
    )


def _is_own(name: str) -> bool:
    """Return whether a name is that of a class that `_OWN` packages define, their tests and test tools left out.

    What its modules have only imported is not its own: `sklearn.utils._testing.check_output` runs a program.
    """
    module_name, _, class_name = name.rpartition(".")
    if not _is_below(module_name) or "test" in module_name:
        return False
    try:
        found: object = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError:
        return False
    return isinstance(found, type) and _is_below(found.__module__)


def _is_below(module_name: str) -> bool:
    """Return whether a module is one of the `_OWN` packages or inside one."""
    return any(f"{module_name}.".startswith(f"{package}.") for package in _OWN)


def _explain_foreign(foreign: Sequence[str], source: Source) -> str:
    """Return why names of other packages need more than an option."""
    return (
        f"{version_name(source)} is to trust {', '.join(foreign)}, and loading may run what is not scikit-learn's own "
        "with arguments out of the file; register the version with allow_code=True if you trust whoever made it"
    )


# --- the file -------------------------------------------------------------------------------------------------------


def _measure(file: BinaryIO, path: Path, options: _Options, source: Source) -> int:
    """Return what the file unpacks to, in bytes; raises ValueError for what is no skops file, or unpacks to too much.

    A zip's own list is enough: reading stops at the size that it names.
    """
    try:
        with ZipFile(file) as archive:
            entries = {entry.filename: entry.file_size for entry in archive.infolist()}
    except Exception as error:  # zipfile raises half a dozen kinds on what is no zip
        size = path.stat().st_size
        wrong = "is empty" if not size else f"is not a skops file, or was cut short at {size} bytes"
        raise ValueError(f"{_where(path, source)} {wrong}; write or copy it again") from error
    if _SCHEMA not in entries:
        raise ValueError(f"{_where(path, source)} is a zip without {_SCHEMA}, so not of skops.io.dump")
    if (unpacked_bytes := sum(entries.values())) > options.max_unpacked_bytes:
        raise ValueError(
            f"{_where(path, source)} unpacks to {unpacked_bytes} bytes, and the limit is "
            f"{options.max_unpacked_bytes}; raise the option max_unpacked_bytes if the model really is so large"
        )
    return unpacked_bytes


def _read(packages: Mapping[str, Any], file: BinaryIO, path: Path, options: _Options, source: Source) -> Any:
    """Return what skops reads; raises ValueError naming refused types, or what went wrong and the way out."""
    skops = packages["skops.io"]
    try:
        refused = [name for name in skops.get_untrusted_types(file=file) if name not in options.trusted]
        if not refused:
            # A warning of scikit-learn about another version's file is left to Python's filters: catch_warnings would
            # change them under all the threads that are serving. Whoever makes it an error gets the sentence below.
            return skops.load(file, trusted=list(options.trusted))
    except Exception as error:  # a file may hold anything, and skops and the classes in it raise as they please
        raise ValueError(
            f"{_where(path, source)} cannot be loaded: {type(error).__name__}: {error}{_versions(file)}"
        ) from error
    lines = ", ".join(f'"{name}"' for name in [*options.trusted, *refused])
    raise ValueError(
        f"{path} holds types that skops does not trust: {', '.join(refused)}. It checks names, not what the file puts "
        "into such a type, which may crash the process; if you trust whoever made the file, register "
        f'{version_name(source)} with options={{"trusted": [{lines}]}}' + _also(refused)
    )


def _also(refused: Sequence[str]) -> str:
    """Return what else the version needs where a refused type is not scikit-learn's own."""
    return "" if all(map(_is_own, refused)) else " and allow_code=True"


def _versions(file: BinaryIO) -> str:
    """Return a note on the scikit-learn that wrote the file, empty where that is the installed one or unknown."""
    installed: str = importlib.import_module("sklearn").__version__
    try:
        with ZipFile(file) as archive:
            written = sorted({found.decode() for found in _SAVED_WITH.findall(archive.read(_SCHEMA))} - {installed})
    except Exception:  # noqa: BLE001 - the error that led here is the one to report
        written = []
    if not written:
        return ""
    return f" (written by scikit-learn {', '.join(written)}; installed is {installed}: install that, or write it again)"


def _framing(estimator: Any, path: Path, source: Source) -> Callable[[Any], Any]:
    """Return what makes of an array what the estimator was fitted on; raises LoaderNotInstalled without pandas."""
    columns: Any = getattr(estimator, "feature_names_in_", None)
    if columns is None:
        return lambda array: array
    try:
        frame = importlib.import_module("pandas").DataFrame
    except ImportError as error:
        what = f"pandas for {path.name}, which was fitted on named columns"
        raise _not_installed(what, error, "pandas", source) from error
    return lambda array: frame(array, columns=columns)


def _where(path: Path, source: Source) -> str:
    """Return the file as messages name it."""
    return f"{path} (source of {version_name(source)})"
