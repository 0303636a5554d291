"""Loads `.onnx` files with ONNX Runtime; runs no code of the file's author.

An `OnnxModel` owns one inference session (and, above one `intra_op_threads`, the session's native threads) until
`close`. It never imports ONNX Runtime before a load asks for it and never falls back to another provider in silence.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs

from changeover.errors import LoaderNotInstalled
from changeover.plugin import API_VERSION, BATCH, Model, Signature, Source, TensorSpec
from changeover_plugins.options import COUNT, Needed, is_count, is_names, read_options, version_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = "CPUExecutionProvider"
"""The provider that every build of ONNX Runtime has."""

_SILENT = 4  # ONNX Runtime's "fatal": what went wrong goes into the exception, not to stderr as well
_START_BYTES = 40

# Strings are "any dtype" on the way in because NumPy gives each length a dtype of its own (`<U5`).
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "",
}


class _Node(Protocol):
    """What ONNX Runtime says about one input or output."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class _Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that is used here."""

    def get_inputs(self) -> Sequence[_Node]: ...
    def get_outputs(self) -> Sequence[_Node]: ...
    def get_providers(self) -> Sequence[str]: ...
    def run(self, output_names: Sequence[str], input_feed: dict[str, Any]) -> Sequence[Any]: ...


@attrs.frozen
class _Options:
    """The loader's settings, checked."""

    providers: Sequence[str] = (CPU,)
    """Execution providers in order of preference; ONNX Runtime always adds the CPU last."""
    intra_op_threads: int = 1
    """Threads that one `predict` may use, its caller's included."""


class OnnxModel:
    """One inference session; `predict` may be called by several threads at once."""

    thread_safe: bool = True

    def __init__(self, session: _Session, signature: Signature, file_bytes: int) -> None:
        """Take over the session; nobody else may keep it."""
        self.signature = signature
        self._session: _Session | None = session
        self._outputs = [spec.name for spec in signature.outputs]
        self._file_bytes = file_bytes

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph on arrays by name and return every output by name, shapes and dtypes as in `signature`.

        Raises RuntimeError after `close`, and what ONNX Runtime raises on arrays that do not fit.
        """
        session = self._session
        if session is None:
            raise RuntimeError("this ONNX model was closed; predict may not be called after close")
        return dict(zip(self._outputs, session.run(self._outputs, dict(inputs)), strict=True))

    def memory_bytes(self) -> int:
        """Return the size of the file: weights dominate both; those kept in other files beside it are not counted."""
        return self._file_bytes

    def close(self) -> None:
        """Let go of the session; a `predict` that another thread is in ends first."""
        self._session = None


class OnnxLoader:
    """Loads one `.onnx` file; the options are `providers` (a list of names) and `intra_op_threads` (default 1)."""

    api_version: ClassVar[int] = API_VERSION
    executes_code_on_load: ClassVar[bool] = False

    def load(self, source: Source) -> Model:
        """Open a session on the file that `source.location` names.

        Raises ValueError for a file that is no ONNX model, an output that is no tensor or a wrong option;
        FileNotFoundError and IsADirectoryError; LoaderNotInstalled without ONNX Runtime.
        """
        path = source.file()
        options = read_options(source, "onnx", _NEEDED, _Options)
        runtime = _import_runtime(source)
        _check_providers(runtime, options, source)
        session = _open(runtime, path, options, source)
        return OnnxModel(session, _read_signature(session, path), path.stat().st_size)


_NEEDED: Needed = {
    "providers": (lambda value: is_names(value) and len(value) > 0, "a list of provider names"),
    "intra_op_threads": (is_count, COUNT),
}


def _import_runtime(source: Source) -> Any:
    """Return the module `onnxruntime`, which has no type information; raises LoaderNotInstalled."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise LoaderNotInstalled(
            f'the onnx loader needs ONNX Runtime ({error}); install it with: pip install "changeover[onnx]"',
            model=source.model,
            version=source.version,
        ) from error


def _check_providers(runtime: Any, options: _Options, source: Source) -> None:
    """Raise ValueError for a provider that this build lacks: ONNX Runtime would print a line and take the CPU."""
    available: list[str] = runtime.get_available_providers()
    for provider in options.providers:
        if provider not in available:
            raise ValueError(
                f"{version_name(source)} asks for the provider {provider!r}; this build has {', '.join(available)}"
            )


def _open(runtime: Any, path: Path, options: _Options, source: Source) -> _Session:
    """Return a session on the file; raises ValueError naming the path, what is wrong and the way out."""
    settings = runtime.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.intra_op_num_threads = options.intra_op_threads
    try:
        # By path, not by bytes: while 100 MB load, a thread that ticks each half millisecond is held up for 3 ms (5 ms
        # in the worst of 18 loads, 1 ms with nothing going on); from bytes, reading and parsing under the GIL hold it
        # up for 60-100 ms (280 ms), and the load takes twice as long.
        session: _Session = runtime.InferenceSession(
            str(path), settings, providers=list(options.providers), enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors have only this base in common
        raise ValueError(f"{_explain(path, error)} (source of {version_name(source)})") from error
    missing = set(options.providers) - set(session.get_providers())
    if missing:
        raise ValueError(
            f"{version_name(source)}: the provider {missing.pop()!r} did not start; is its driver installed?"
        )
    return session


def _explain(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that ONNX Runtime refused, and the way out."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if not start:
        return f"{path} is empty; export or copy the model again"
    if start.isascii() and start.decode("ascii").replace("\n", " ").replace("\r", " ").isprintable():
        return f"{path} is text, not an ONNX model (it starts with {start.decode('ascii')!r}); name the .onnx file"
    if type(error).__name__ == "InvalidProtobuf":
        size = path.stat().st_size
        return f"{path} is not an ONNX model, or was cut short at {size} bytes; export or copy it again"
    return f"ONNX Runtime cannot load {path}: {error}; export it for the installed version of ONNX Runtime"


def _read_signature(session: _Session, path: Path) -> Signature:
    """Return the signature, the first dimension named `BATCH` if it is free everywhere; raises ValueError."""
    nodes = [*session.get_inputs(), *session.get_outputs()]
    batched = all(node.shape and not isinstance(node.shape[0], int) for node in nodes)
    return Signature(
        inputs=tuple(_read_spec(node, path, batched=batched) for node in session.get_inputs()),
        outputs=tuple(_read_spec(node, path, batched=batched) for node in session.get_outputs()),
    )


def _read_spec(node: _Node, path: Path, *, batched: bool) -> TensorSpec:
    """Return one tensor's name, dtype and shape; raises ValueError for what is no tensor or has no NumPy dtype."""
    if not node.type.startswith("tensor("):
        raise ValueError(
            f"{path}: {node.name!r} is a {node.type}, and only tensors can be served; "
            "export the model with tensor outputs (skl2onnx: options={'zipmap': False})"
        )
    if node.type not in _DTYPES:
        raise ValueError(f"{path}: {node.name!r} is a {node.type}, which NumPy lacks; export it as float32")
    shape = (BATCH, *node.shape[1:]) if batched else tuple(node.shape)
    return TensorSpec(name=node.name, dtype=_DTYPES[node.type], shape=shape)
