"""The ONNX loader: what it says about a model, and what it says about a file that is none.

Models are made here with onnx's own helper, so that each has exactly the oddity that a test is about.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from changeover.errors import LoaderNotInstalled
from changeover.plugin import API_VERSION, BATCH, Model, Source, TensorSpec
from changeover_plugins.onnx_loader import OnnxLoader

np = pytest.importorskip("numpy")
pytest.importorskip("onnxruntime")

Dims = list[int | str | None]
Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Return a function that writes a one-node model and returns its path."""
    helper = pytest.importorskip("onnx.helper")
    from onnx import TensorProto

    def write(
        operator: str = "Identity",
        inputs: tuple[Dims, ...] = (["n", 3],),
        output: Dims | None = None,
        kind: str = "FLOAT",
        opset: int = 17,
        **attributes: Any,
    ) -> Path:
        element = TensorProto.DataType.Value(kind)
        names = [f"in{index}" for index in range(len(inputs))]
        ins = [helper.make_tensor_value_info(n, element, dims) for n, dims in zip(names, inputs, strict=True)]
        out = helper.make_tensor_value_info("out", element, inputs[0] if output is None else output)
        graph = helper.make_graph([helper.make_node(operator, names, ["out"], **attributes)], "graph", ins, [out])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        path = tmp_path / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return write


class Asked:
    """ONNX Runtime as built for CUDA, on a machine where that starts or does not; keeps what sessions asked for."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        self.starts = False
        self.asked: list[dict[str, Any]] = []

    def open(self, path: str, settings: Any, **asked: Any) -> Any:
        """Open a session on the CPU that gives itself out as what this machine would have made of it."""
        self.asked.append(asked)
        session = self.real(path, settings, providers=["CPUExecutionProvider"])
        session.get_providers = lambda: self.both if self.starts else self.both[1:]
        session.options = settings
        return session


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Put ONNX Runtime into the place of one that was built for CUDA, whatever this machine has."""
    import onnxruntime

    asked = Asked(onnxruntime.InferenceSession)
    monkeypatch.setattr(onnxruntime, "InferenceSession", asked.open)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: asked.both)
    return asked


@pytest.fixture
def digits_file(digits_repository: tuple[Path, Any]) -> Path:
    """Return the file of the demo's version 2."""
    return digits_repository[0] / "digits" / "2" / "model.onnx"


def load(path: Path, **options: Any) -> Model:
    """Load the file as version 7 of the model "shop"."""
    return OnnxLoader().load(Source(model="shop", version="7", location=str(path), options=options))


def shapes(model: Model) -> list[tuple[int | str | None, ...]]:
    """Return every shape in the signature, inputs first."""
    return [spec.shape for spec in model.signature.inputs + model.signature.outputs]


# --- a good file ----------------------------------------------------------------------------------------------------


def test_is_found_by_entry_point() -> None:
    """The installed package offers the loader as `onnx`, for this engine's API, as one that runs no code on load."""
    (point,) = entry_points(group="changeover.loaders", name="onnx")
    found = point.load()
    assert found is OnnxLoader
    assert (found.api_version, found.executes_code_on_load) == (API_VERSION, False)


def test_signature_names_dtypes_and_shapes(digits_file: Path) -> None:
    """The signature has every input and output with its NumPy dtype and its shape, the batch dimension by that name."""
    model = load(digits_file)
    assert isinstance(model, Model)
    assert model.signature.inputs == (TensorSpec("image", "float32", (BATCH, 64)),)
    assert model.signature.outputs == (
        TensorSpec("label", "int64", (BATCH,)),
        TensorSpec("probabilities", "float32", (BATCH, 10)),
    )
    assert model.signature.batched
    assert model.thread_safe


def test_a_fixed_first_dimension_anywhere_means_not_batched(build: Build) -> None:
    """One output with a fixed first dimension keeps every first dimension under its own name."""
    model = load(build("ReduceSum", inputs=(["rows", 3],), output=[1, 1]))
    assert shapes(model) == [("rows", 3), (1, 1)]
    assert not model.signature.batched


def test_a_scalar_output_means_not_batched(build: Build) -> None:
    """A model that sums over its whole batch is not batched: the sum could not be split among requests."""
    model = load(build("ReduceSum", inputs=(["rows", 3],), output=[], keepdims=0))
    assert shapes(model) == [("rows", 3), ()]
    assert not model.signature.batched
    assert model.predict({"in0": np.ones((2, 3), np.float32)})["out"] == 6


def test_free_dimensions_keep_their_names(build: Build) -> None:
    """Free dimensions after the first keep their name, or None where the file gives none."""
    model = load(build(inputs=([None, "width", None, 2],)))
    assert shapes(model) == [(BATCH, "width", None, 2)] * 2


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FLOAT", "float32"),
        ("DOUBLE", "float64"),
        ("FLOAT16", "float16"),
        ("INT8", "int8"),
        ("INT16", "int16"),
        ("INT32", "int32"),
        ("INT64", "int64"),
        ("UINT8", "uint8"),
        ("UINT16", "uint16"),
        ("UINT32", "uint32"),
        ("UINT64", "uint64"),
        ("BOOL", "bool"),
    ],
)
def test_declared_dtypes_are_what_runs(build: Build, kind: str, dtype: str) -> None:
    """An array of the dtype that the signature names goes in, and one of the dtype that it names comes out."""
    model = load(build(kind=kind))
    assert [spec.dtype for spec in model.signature.inputs + model.signature.outputs] == [dtype] * 2
    assert model.predict({"in0": np.ones((2, 3), dtype)})["out"].dtype == dtype


def test_strings_accept_any_dtype(build: Build) -> None:
    """A string tensor declares no dtype, because NumPy has one per length."""
    model = load(build(kind="STRING"))
    assert model.signature.inputs[0].dtype == ""
    assert model.predict({"in0": np.array([["a", "bc", "def"]])})["out"].tolist() == [["a", "bc", "def"]]


def test_every_input_reaches_its_place(build: Build) -> None:
    """Inputs are matched by name, in whatever order the mapping has them."""
    model = load(build("Sub", inputs=(["n", 3], ["n", 3])))
    five, two = (np.full((1, 3), value, np.float32) for value in (5, 2))
    assert model.predict({"in1": two, "in0": five})["out"].tolist() == [[3, 3, 3]]


def test_several_threads_predict_at_once(digits_repository: tuple[Path, Any], digits_file: Path) -> None:
    """What a thread gets from a shared model is what it would get alone."""
    images = digits_repository[1].images[:64]
    model = load(digits_file)
    alone = model.predict({"image": images})["label"]
    with ThreadPoolExecutor(8) as threads:
        together = threads.map(lambda row: model.predict({"image": images[row : row + 1]})["label"][0], range(64))
    assert list(together) == alone.tolist()


def test_memory_is_the_size_of_the_file(digits_file: Path) -> None:
    """A model occupies what its file occupies."""
    assert load(digits_file).memory_bytes() == digits_file.stat().st_size


def test_predict_after_close_says_so(build: Build) -> None:
    """A closed model lets go of its session and refuses, in words, instead of failing on a missing attribute."""
    model = load(build())
    model.close()
    with pytest.raises(RuntimeError, match="after close"):
        model.predict({"in0": np.ones((1, 3), np.float32)})


# --- options --------------------------------------------------------------------------------------------------------


def test_one_thread_and_the_cpu_unless_told(build: Build) -> None:
    """Without options a prediction uses its caller's thread, on the CPU."""
    session: Any = load(build())._session
    assert session.get_session_options().intra_op_num_threads == 1
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_options_reach_the_session(build: Build, with_cuda: Asked) -> None:
    """Threads and providers, in their order, are what the version asked for, and nothing is swapped in on failure."""
    with_cuda.starts = True
    session: Any = load(build(), intra_op_threads=3, providers=with_cuda.both)._session
    assert session.options.intra_op_num_threads == 3
    assert with_cuda.asked == [{"providers": with_cuda.both, "enable_fallback": 0}]


def test_unknown_option_is_named(build: Build) -> None:
    """A misspelt option is named, together with the version and the options that exist."""
    with pytest.raises(ValueError, match=r"shop/7.*'provider'.*'providers' and 'intra_op_threads'"):
        load(build(), provider=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("intra_op_threads", 0),
        ("intra_op_threads", True),
        ("intra_op_threads", 2.0),
        ("intra_op_threads", "2"),
        ("providers", "CPUExecutionProvider"),
        ("providers", []),
        ("providers", [1]),
    ],
)
def test_wrong_option_value_is_named(build: Build, name: str, value: object) -> None:
    """A value of the wrong kind is refused with the option's name before ONNX Runtime sees it."""
    with pytest.raises(ValueError, match=f"option '{name}' of shop/7 is .*; it must be"):
        load(build(), **{name: value})


def test_unavailable_provider_is_refused(build: Build) -> None:
    """A provider that this build lacks is an error that lists what there is, not a silent run on the CPU."""
    with pytest.raises(ValueError, match=r"'NopeProvider'; this build has .*CPUExecutionProvider"):
        load(build(), providers=["NopeProvider", "CPUExecutionProvider"])


def test_provider_that_does_not_start_is_refused(build: Build, with_cuda: Asked) -> None:
    """A provider that is there and does not come up (no driver) is an error, not a silent run on the CPU."""
    with pytest.raises(ValueError, match=r"'CUDAExecutionProvider' did not start"):
        load(build(), providers=with_cuda.both)


# --- what cannot be served ------------------------------------------------------------------------------------------


def test_non_tensor_output_says_how_to_export(tmp_path: Path) -> None:
    """A classifier exported with zipmap is refused at load with the option that makes its outputs tensors."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    skl2onnx = pytest.importorskip("skl2onnx")
    fitted = linear_model.LogisticRegression().fit(np.eye(4, dtype=np.float32), [0, 1, 0, 1])
    path = tmp_path / "zipmap.onnx"
    path.write_bytes(skl2onnx.to_onnx(fitted, np.eye(4, dtype=np.float32), target_opset=17).SerializeToString())
    with pytest.raises(ValueError, match=r"zipmap\.onnx: 'output_probability' is a seq.*'zipmap': False"):
        load(path)


def test_element_type_without_dtype_is_refused(build: Build) -> None:
    """A tensor of a type that NumPy lacks is refused at load, by name."""
    with pytest.raises(ValueError, match=r"'in0' is a tensor\(bfloat16\), which NumPy lacks"):
        load(build("Identity", kind="BFLOAT16"))


def test_missing_file(tmp_path: Path) -> None:
    """A path with nothing there is named, with the version that asked."""
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx does not exist.*shop/7"):
        load(tmp_path / "gone.onnx")


def test_directory(tmp_path: Path) -> None:
    """A directory is named as one: the usual slip is the version's folder instead of the file in it."""
    with pytest.raises(IsADirectoryError, match=r"is a directory; shop/7 needs the path of a file"):
        load(tmp_path)


def truncated(whole: bytes) -> Iterator[bytes]:
    """Yield the file cut at several places, the last byte included."""
    yield from (whole[: len(whole) * tenth // 10] for tenth in range(1, 10))
    yield whole[:-1]


def test_truncated_file_says_so(digits_file: Path, tmp_path: Path) -> None:
    """A file that was cut short anywhere is refused with its path, its size and ONNX Runtime's error as the cause."""
    for content in truncated(digits_file.read_bytes()):
        path = tmp_path / "cut.onnx"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"cut\.onnx .*cut short at {len(content)} bytes.*shop/7") as raised:
            load(path)
        assert "onnxruntime" in type(raised.value.__cause__).__module__


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "is text, not an ONNX model .*git-lfs"),
        (b'loader = "onnx"\n', "is text, not an ONNX model .*loader"),
        (b"PK\x03\x04" + bytes(60), "is not an ONNX model"),
        (b"\x93NUMPY\x01\x00" + bytes(60), "is not an ONNX model"),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, content: bytes, wrong: str) -> None:
    """An empty file, a text file and some other binary file are each called what they are, with the cause kept."""
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"other\.onnx {wrong}.*shop/7") as raised:
        load(path)
    assert "onnxruntime" in type(raised.value.__cause__).__module__


def test_model_from_the_future_keeps_the_runtimes_words(build: Build) -> None:
    """A sound file that this ONNX Runtime cannot run is not called broken; the runtime's own words are passed on."""
    with pytest.raises(ValueError, match=r"cannot load .*model\.onnx: .*[Oo]pset.*999") as raised:
        load(build(opset=999))
    assert "onnxruntime" in type(raised.value.__cause__).__module__


def test_nothing_is_printed(build: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What ONNX Runtime has to say about a bad file or a failed run is in the exception and not on stderr as well."""
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.onnx"):
        load(tmp_path / "text.onnx")
    model = load(build("Sub", inputs=(["n", "a"], ["n", "b"]), output=["n", "c"]))
    with pytest.raises(Exception, match="3 by 4"):
        model.predict({"in0": np.ones((1, 3), np.float32), "in1": np.ones((1, 4), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_without_onnx_runtime_the_extra_is_named(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ONNX Runtime the loader says what to install, for which version."""
    path = build()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LoaderNotInstalled, match=r'pip install "changeover\[onnx\]"') as raised:
        load(path)
    assert (raised.value.model, raised.value.version) == ("shop", "7")
