"""Where the requests of a warm-up come from: the caller, JSON and NPZ files, or zeros by the model's signature.

Reads one file at a time, when its turn has come; it blocks, and runs in the warm-up's thread, but for `warmup_of` and
`warmup_inside`, which a scan calls. NumPy is imported where an array has to be made. Owns no state; never unpickles.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from changeover.core.checks import describe
from changeover.core.inputs import copied
from changeover.core.values import SIGNATURE, WARMUP_SUFFIXES, VersionSpec, WarmUpData
from changeover.errors import ChangeoverError, InvalidValue
from changeover.plugin import BATCH, Signature, TensorSpec

WARMUP_NAMES = ("warmup.json", "warmup.npz", "warmup")
"""What holds warm-up data in a version's folder, and is not its model."""

_FROM_JSON = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "U": "U", "O": "biufU"}
"""Kind of dtype to the kinds that JSON may give for it: no text for a number, no fraction for a whole one."""


class Sample(NamedTuple):
    """One request of a warm-up."""

    make: Callable[[], Mapping[str, Any]]
    """Returns its inputs; raises where they cannot be made."""
    total: int | None
    """How many requests the warm-up has; None where files are still unread."""
    where: str = ""
    """Where it stands, for messages; empty for the caller's own mappings."""


def samples(data: WarmUpData, spec: VersionSpec, signature: Signature) -> Iterator[Sample]:
    """Yield the requests of a warm-up in order; raises `InvalidValue` where there are none to be had."""
    if isinstance(data, Path):
        yield from _in_files(data, signature)
    elif isinstance(data, str):
        yield from _zeros(spec, signature)
    else:
        for inputs in data:
            # A copy: what a model does to its inputs is nothing to the next load's warm-up, nor to the caller.
            yield Sample(partial(copied, inputs), len(data))


# --- in a version's folder ------------------------------------------------------------------------------------------


def warmup_of(folder: Path) -> Path | None:
    """Return the warm-up data that lies in a version's folder under its usual name, None where there is none.

    Raises `InvalidValue` where it leads out of the folder, or there are two.
    """
    found = [name for name in WARMUP_NAMES if (folder / name).exists()]
    if len(found) > 1:
        raise InvalidValue(f"it has warm-up data twice, {' and '.join(found)}; leave one, or name one as warmup = ...")
    return _inside(folder, found[0]) if found else None


def warmup_inside(folder: Path, named: object) -> Path | str:
    """Return what `warmup = ...` in a version's folder means: "signature", or a file or folder below that folder.

    Raises `InvalidValue` for all else, also for what leads out of the folder by a link.
    """
    if named == SIGNATURE:
        return SIGNATURE
    if not isinstance(named, str):
        raise InvalidValue(f'warmup must be "{SIGNATURE}" or the name of a file, not {named!r}')
    path = _inside(folder, named)
    if path.resolve() == folder.resolve() or not (path.is_dir() or path.suffix.lower() in WARMUP_SUFFIXES):
        raise InvalidValue(f'warmup must be "{SIGNATURE}", or name a .json or .npz file, not {named!r}')
    if not path.exists():
        raise InvalidValue(f"warmup names {named!r}, and there is no such file")
    return path


def _inside(folder: Path, name: str) -> Path:
    """Return a path below `folder`; raises `InvalidValue` where it, or what lies in it, is somewhere else."""
    path, home = folder / name, folder.resolve()
    for each in (path, *(path.iterdir() if path.is_dir() else ())):
        if not each.resolve().is_relative_to(home):
            raise InvalidValue(f"warmup {str(each.relative_to(folder))!r} lies outside the version's own folder")
    return path


# --- files ----------------------------------------------------------------------------------------------------------


def _in_files(path: Path, signature: Signature) -> Iterator[Sample]:
    files, before = _list(path), 0
    for number, file in enumerate(files, 1):
        try:
            found = _in_file(file, signature)
        except Exception as error:
            raise InvalidValue(f"{file}: {say(error)}") from error
        unread = files[number:]
        countable = all(other.suffix.lower() == ".npz" for other in unread)  # one request each
        total = before + len(found) + len(unread) if countable else None
        for entry, make in enumerate(found, 1):
            yield Sample(make, total, f"entry {entry} of {file}" if len(found) > 1 else str(file))
        before += len(found)


def _list(path: Path) -> Sequence[Path]:
    """Return the files of warm-up data at a path, in order; raises `InvalidValue` where there are none."""
    if not path.is_dir():
        if path.suffix.lower() not in WARMUP_SUFFIXES:
            raise InvalidValue(f"{path} is neither a .json nor a .npz file, nor a folder of them")
        return [path]
    found = [each for each in sorted(path.iterdir()) if each.suffix.lower() in WARMUP_SUFFIXES]
    files = [each for each in found if not each.name.startswith(".")]
    if not files:
        raise InvalidValue(f"the folder {path} holds no .json and no .npz file")
    return files


def _in_file(file: Path, signature: Signature) -> Sequence[Callable[[], Mapping[str, Any]]]:
    """Return what makes each request of one file."""
    if not file.is_file():
        raise InvalidValue("there is no such file" if not file.exists() else "it is no file")
    if file.suffix.lower() == ".npz":
        return [partial(_read_npz, file)]
    content: Any = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    entries: list[Any] = content if isinstance(content, list) else [content]  # pyright: ignore[reportUnknownVariableType] - JSON
    if not entries:
        raise InvalidValue("it holds an empty list; leave at least one request in it")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            kind = type(entry).__name__
            raise InvalidValue(f"entry {number} must be an object of inputs by name, not what Python calls {kind}")
    return [partial(_arrays, entry, signature) for entry in entries]


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidValue(f"{name} is no number in JSON; keep it in a .npz file")


def _read_npz(file: Path) -> dict[str, Any]:
    """Return the arrays of an NPZ file by name; objects in it are refused and not unpickled."""
    numpy = _numpy()
    with file.open("rb") as content:
        archive = numpy.load(content, allow_pickle=False)
        if not hasattr(archive, "files"):
            raise InvalidValue("it is one array, not an NPZ archive of arrays by name; see numpy.savez")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    for name, array in arrays.items():
        if not isinstance(array, numpy.ndarray):
            raise InvalidValue(f"what it holds as {name!r} is no array; see numpy.savez")
    return arrays


# --- arrays ---------------------------------------------------------------------------------------------------------


def _arrays(entry: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    """Return the inputs of one JSON object as arrays, by the dtypes of the signature.

    A model that says nothing about an input, and does not want it checked, gets the plain list. So does the check of
    the names what the model does not know.
    """
    dtypes = {spec.name: spec.dtype for spec in signature.inputs}
    if not signature.checked and not _has_numpy():
        return dict(entry)
    return {
        name: value if name not in dtypes or not (signature.checked or dtypes[name])
        else _array(name, value, dtypes[name])
        for name, value in entry.items()
    }  # fmt: skip


def _array(name: str, value: object, wanted: str) -> Any:
    """Return JSON's numbers or strings as an array; raises `InvalidValue` where that would change a value."""
    numpy = _numpy()
    dtype = _dtype(name, wanted) if wanted else None
    try:
        plain = _plain(value, dtype)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidValue(f"input {name!r} cannot be made an array: {error}") from error
    dtype = plain.dtype if dtype is None else dtype
    kinds = _FROM_JSON.get(dtype.kind)
    if kinds is None:
        raise InvalidValue(f"input {name!r} is {wanted}, which JSON cannot hold; keep it in a .npz file")
    if plain.size and plain.dtype.kind not in kinds:
        what = "numbers that are too big, or no numbers," if plain.dtype.kind == "O" else f"{plain.dtype.name} values"
        raise InvalidValue(f"input {name!r} holds {what} and must be {wanted or 'an array'}")
    with numpy.errstate(all="ignore"):
        array = plain.astype(dtype)
    exact = bool(numpy.isfinite(array).all()) if dtype.kind == "f" else bool((array == plain).all())
    if not exact:
        raise InvalidValue(f"input {name!r} holds values that do not fit {dtype.name}")
    return array


def _plain(value: object, dtype: Any) -> Any:
    """Return JSON's numbers or strings as NumPy takes them; whole ones from 2**63 on it would take for fractions."""
    numpy = _numpy()
    plain = numpy.array(value)
    if dtype is not None and dtype.kind == "u" and plain.dtype.kind == "f":
        exact = numpy.array(value, object)
        return numpy.array(value, dtype) if all(type(each) is int for each in exact.flat) else plain
    return plain


def _zeros(spec: VersionSpec, signature: Signature) -> Iterator[Sample]:
    """Yield a request of zeros, and one of as many rows as a batch may have."""
    if not signature.checked or not signature.inputs:
        raise InvalidValue(
            f'the model declares no inputs that warmup="{SIGNATURE}" could make up; give warm-up data by hand '
            "(a mapping of names to arrays, or several), or in a .json or .npz file"
        )
    rows = [1] + ([spec.batching.max_batch] if spec.batching and spec.batching.max_batch > 1 else [])
    for count in rows:
        where = f"zeros by the signature, {count} row{'s' if count > 1 else ''}"
        yield Sample(partial(_zero_inputs, signature, count), len(rows), where)


def _zero_inputs(signature: Signature, rows: int) -> dict[str, Any]:
    return {spec.name: _zero(spec, rows) for spec in signature.inputs}


def _zero(spec: TensorSpec, rows: int) -> Any:
    """Return zeros for one input, free dimensions of size 1; what may be of any dtype, and objects, are empty texts.

    Loaders say "any dtype" of texts, because NumPy gives each length of text a dtype of its own.
    """
    numpy = _numpy()
    shape = tuple(rows if size == BATCH else size if isinstance(size, int) else 1 for size in spec.shape)
    dtype = _dtype(spec.name, spec.dtype) if spec.dtype else None
    if dtype is None or dtype.kind == "O":
        return numpy.full(shape, "", dtype)
    return numpy.zeros(shape, dtype)


def _dtype(name: str, wanted: str) -> Any:
    try:
        return _numpy().dtype(wanted)
    except TypeError as error:
        text = f"input {name!r} is {wanted!r} by the signature, which NumPy does not know; give its arrays by hand"
        raise InvalidValue(text) from error


def _numpy() -> Any:
    """Return NumPy; raises `InvalidValue` where it is not installed."""
    try:
        return importlib.import_module("numpy")
    except ImportError as error:
        raise InvalidValue(f"making arrays needs NumPy: pip install numpy ({error})") from error


def _has_numpy() -> bool:
    try:
        _numpy()
    except InvalidValue:
        return False
    return True


def say(error: BaseException) -> str:
    """Return what an error says; one that is not ours by its type, too."""
    return str(error) if isinstance(error, ChangeoverError) else describe(error)
