"""The scikit-learn loader: what it serves, what it refuses to trust, and what it says about a file that is none.

Every file is a real one, written by skops here, or that one with a single thing wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

import changeover
from changeover import Batching
from changeover.errors import LoaderNotInstalled, LoadFailed
from changeover.plugin import API_VERSION, BATCH, Model, Source, TensorSpec
from changeover_plugins import listing
from changeover_plugins.sklearn_loader import SklearnLoader
from changeover_plugins.sklearn_model import changes_filters

np = pytest.importorskip("numpy")
pytest.importorskip("sklearn")
skops = pytest.importorskip("skops.io")

from sklearn.cluster import DBSCAN, KMeans  # noqa: E402 - skipped without it
from sklearn.datasets import load_iris  # noqa: E402
from sklearn.dummy import DummyClassifier  # noqa: E402
from sklearn.ensemble import IsolationForest, RandomForestClassifier  # noqa: E402
from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier  # noqa: E402
from sklearn.mixture import GaussianMixture  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.multiclass import OneVsRestClassifier  # noqa: E402
from sklearn.multioutput import MultiOutputClassifier  # noqa: E402
from sklearn.naive_bayes import GaussianNB  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler  # noqa: E402

TREE = "sklearn.tree._tree.Tree"
ROWS, SPECIES = load_iris(return_X_y=True)
NAMED = np.array(["setosa", "versicolor", "virginica"])[SPECIES]

Dump = Callable[..., Path]


def ours(rows: Any) -> Any:
    """Stand for a function of some other package than scikit-learn."""
    return rows * 2


@cache
def linear() -> Any:
    """Return a small classifier, fitted; it is only read."""
    return LogisticRegression(max_iter=500).fit(ROWS, SPECIES)


@cache
def forest() -> Any:
    """Return a small forest, fitted and only read; its trees are of a type that skops does not trust."""
    return RandomForestClassifier(5, random_state=0).fit(ROWS, SPECIES)


class Duck:
    """Has the methods of an estimator and is none that scikit-learn knows of."""

    def fit(self, rows: Any) -> Any:
        return self

    def predict(self, rows: Any) -> Any:
        return rows


@pytest.fixture
def dump(tmp_path: Path) -> Dump:
    """Return a function that writes an object as a skops file and returns its path."""

    def write(dumped: Any, name: str = "model.skops", **settings: Any) -> Path:
        path = tmp_path / name
        skops.dump(dumped, path, **settings)
        return path

    return write


def load(path: Path, **options: Any) -> Model:
    """Load the file as version 7 of the model "shop"."""
    return SklearnLoader().load(Source(model="shop", version="7", location=str(path), options=options))


def allowed(path: Path, *trusted: str) -> Source:
    """Return what a loader is given for a version that was registered with allow_code=True."""
    return Source("shop", "7", str(path), {"trusted": list(trusted)}, allow_code=True)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change a file's schema in place; return the path."""
    with ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(entries["schema.json"])
    change(schema)
    with ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, json.dumps(schema) if name == "schema.json" else content)
    return path


def written_by(version: str) -> Callable[[dict[str, Any]], None]:
    """Return a change that makes an estimator one of another scikit-learn."""

    def change(schema: dict[str, Any]) -> None:
        schema["content"]["content"]["_sklearn_version"]["content"] = json.dumps(version)

    return change


# --- a good file ----------------------------------------------------------------------------------------------------


def test_is_found_by_entry_point() -> None:
    """The installed package offers the loader as `sklearn`, for this engine's API, as one that runs no code on load."""
    (point,) = entry_points(group="changeover.loaders", name="sklearn")
    found = point.load()
    assert found.__name__ == "SklearnLoader"
    assert (found.api_version, found.executes_code_on_load) == (API_VERSION, False)


def test_signature_of_a_classifier(dump: Dump) -> None:
    """A classifier takes "X" and gives labels and probabilities, all with the batch dimension first."""
    model = load(dump(linear()))
    assert isinstance(model, Model)
    assert model.signature.inputs == (TensorSpec("X", "float64", (BATCH, 4)),)
    assert model.signature.outputs == (
        TensorSpec("label", "int64", (BATCH,)),
        TensorSpec("probabilities", "float64", (BATCH, 3)),
    )
    assert model.signature.batched


@pytest.mark.parametrize(
    ("estimator", "outputs"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), {"label": (), "probabilities": (3,)}),
        (RidgeClassifier(), {"label": ()}),
        (LinearRegression(), {"value": ()}),
        (KMeans(3, n_init=1), {"label": ()}),
        (IsolationForest(n_estimators=3), {"label": ()}),
        (GaussianMixture(2), {"label": (), "probabilities": (2,)}),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else None,
)
def test_each_kind_answers_as_scikit_learn_does(dump: Dump, estimator: Any, outputs: dict[str, Any]) -> None:
    """Each kind has the outputs that it can give, declared with their shapes, equal to those of the estimator."""
    estimator.fit(ROWS, SPECIES)
    model = load(dump(estimator), trusted=[TREE])
    assert {spec.name: spec.shape for spec in model.signature.outputs} == {
        name: (BATCH, *shape) for name, shape in outputs.items()
    }
    answer = model.predict({"X": ROWS})
    assert np.array_equal(answer.pop("label" if "label" in outputs else "value"), estimator.predict(ROWS))
    if answer:
        assert np.array_equal(answer["probabilities"], estimator.predict_proba(ROWS))


def test_string_labels_come_back_as_they_are(dump: Dump) -> None:
    """Class names stay strings, and declare no dtype because NumPy has one per length."""
    model = load(dump(GaussianNB().fit(ROWS, NAMED)))
    assert model.signature.outputs[0] == TensorSpec("label", "", (BATCH,))
    assert model.predict({"X": ROWS[:1]})["label"].tolist() == ["setosa"]


def test_several_outputs_of_a_classifier(dump: Dump) -> None:
    """Several labels per row are one array, and the probabilities of each are an output of their own."""
    estimator = MultiOutputClassifier(GaussianNB()).fit(ROWS, np.c_[SPECIES, SPECIES > 1])
    model = load(dump(estimator))
    assert {spec.name: spec.shape for spec in model.signature.outputs} == {
        "label": (BATCH, 2),
        "probabilities_0": (BATCH, 3),
        "probabilities_1": (BATCH, 2),
    }
    answer = model.predict({"X": ROWS})
    assert np.array_equal(answer["label"], estimator.predict(ROWS))
    assert np.array_equal(answer["probabilities_1"], estimator.predict_proba(ROWS)[1])


def test_several_values_of_a_regressor(dump: Dump) -> None:
    """A regressor with two targets declares two columns."""
    model = load(dump(LinearRegression().fit(ROWS, np.c_[SPECIES, -SPECIES])))
    assert model.signature.outputs == (TensorSpec("value", "float64", (BATCH, 2)),)


def test_sparse_answers_come_back_dense(dump: Dump) -> None:
    """An estimator that was taught with a sparse indicator matrix answers with an array all the same."""
    sparse = pytest.importorskip("scipy.sparse")
    estimator = OneVsRestClassifier(GaussianNB()).fit(ROWS, sparse.csr_matrix(np.eye(3, dtype=int)[SPECIES]))
    model = load(dump(estimator), probabilities=False, trusted=["scipy.sparse._csr.csr_matrix"])
    assert model.signature.outputs[0].shape == (BATCH, 3)
    assert model.predict({"X": ROWS})["label"].tolist() == estimator.predict(ROWS).toarray().tolist()


def test_text_is_one_string_per_row(dump: Dump) -> None:
    """A pipeline that begins with a vectorizer takes strings, of any length."""
    estimator = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["so good", "too bad"], ["up", "down"])
    model = load(dump(estimator))
    assert model.signature.inputs == (TensorSpec("X", "", (BATCH,)),)
    assert model.predict({"X": np.array(["good good", "a bad one"])})["label"].tolist() == ["up", "down"]


def test_named_columns_are_given_their_names(dump: Dump) -> None:
    """An estimator that was fitted on named columns is asked with them, so that it neither warns nor mistakes them."""
    pandas = pytest.importorskip("pandas")
    columns = ["length", "width", "petal length", "petal width"]
    estimator = GaussianNB().fit(pandas.DataFrame(ROWS, columns=columns), SPECIES)
    model = load(dump(estimator))
    assert np.array_equal(
        model.predict({"X": ROWS})["label"], estimator.predict(pandas.DataFrame(ROWS, columns=columns))
    )


def test_named_columns_need_pandas(dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pandas, what was fitted on named columns is refused with what to install."""
    pandas = pytest.importorskip("pandas")
    path = dump(GaussianNB().fit(pandas.DataFrame(ROWS, columns=list("abcd")), SPECIES))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LoaderNotInstalled, match=r"shop/7.*named columns.*pip install pandas"):
        load(path)


def test_zeros_may_be_no_row_for_it(dump: Dump) -> None:
    """A model that cannot answer the row of zeros which tells its outputs is loaded, with one answer per row."""
    colours = np.array([["red"], ["green"]], dtype=object)
    estimator = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(colours, ["stop", "go"])
    model = load(dump(estimator), dtype="object")
    assert model.signature.outputs == (
        TensorSpec("label", "", (BATCH,)),
        TensorSpec("probabilities", "float64", (BATCH, 2)),
    )
    assert model.predict({"X": colours})["label"].tolist() == ["stop", "go"]


def test_a_first_step_may_do_nothing(dump: Dump) -> None:
    """A pipeline that begins with "passthrough" names no width, and is served all the same."""
    estimator = make_pipeline("passthrough", GaussianNB()).fit(ROWS, SPECIES)
    model = load(dump(estimator))
    assert np.array_equal(model.predict({"X": ROWS})["label"], estimator.predict(ROWS))


def test_any_width_where_the_estimator_names_none(dump: Dump) -> None:
    """An estimator that does not look at its columns takes any number of them."""
    estimator = DummyClassifier().fit(ROWS, SPECIES)
    estimator.__dict__.pop("n_features_in_", None)  # scikit-learn before 1.6 has none here
    model = load(dump(estimator))
    assert model.signature.inputs[0].shape == (BATCH, None)


def test_memory_is_what_the_file_unpacks_to(dump: Dump) -> None:
    """A compressed file counts as what it becomes in memory."""
    plain, packed = dump(forest(), "plain.skops"), dump(forest(), "packed.skops", compression=ZIP_DEFLATED)
    assert packed.stat().st_size < plain.stat().st_size / 2
    sizes = [load(path, trusted=[TREE]).memory_bytes() for path in (plain, packed)]
    assert min(sizes) > 0.8 * plain.stat().st_size > packed.stat().st_size


def test_several_threads_predict_at_once(dump: Dump) -> None:
    """What a thread gets from a shared model is what it would get alone."""
    model = load(dump(linear()))
    assert model.thread_safe
    alone = model.predict({"X": ROWS})["label"]
    with ThreadPoolExecutor(8) as threads:
        together = threads.map(lambda row: model.predict({"X": ROWS[row : row + 1]})["label"][0], range(len(ROWS)))
    assert list(together) == alone.tolist()


@pytest.mark.parametrize("shape", ["forest", "in a pipeline", "in a search", "many outputs", "linear in a pipeline"])
def test_an_ensemble_predicts_one_at_a_time(shape: str) -> None:
    """Its parts set the process's warning filters, which threads at once leave in pieces; others share a model."""
    estimator = {
        "forest": forest,
        "in a pipeline": lambda: make_pipeline(StandardScaler(), forest()),
        "in a search": lambda: GridSearchCV(forest(), {}),
        "many outputs": lambda: MultiOutputClassifier(linear()),
        "linear in a pipeline": lambda: make_pipeline(StandardScaler(), linear()),
    }[shape]()
    assert changes_filters(estimator) is (shape != "linear in a pipeline")


def test_an_estimator_of_another_version_is_served(dump: Dump) -> None:
    """One that lacks a setting which this version knows is loaded and answers; what it is made of cannot be told."""
    estimator = LogisticRegression(max_iter=500).fit(ROWS, SPECIES)
    del estimator.tol
    model = load(dump(estimator))
    assert model.predict({"X": ROWS})["label"].tolist() == linear().predict(ROWS).tolist()
    assert not model.thread_safe


def test_a_forest_says_that_it_is_not_for_several_threads(dump: Dump) -> None:
    """The engine then asks it once at a time."""
    assert not load(dump(forest()), trusted=[TREE]).thread_safe


def test_predict_after_close_says_so(dump: Dump) -> None:
    """A closed model lets go of its estimator and refuses, in words."""
    model = load(dump(linear()))
    model.close()
    with pytest.raises(RuntimeError, match="after close"):
        model.predict({"X": ROWS})


# --- trust ----------------------------------------------------------------------------------------------------------


def test_refused_types_are_named_with_the_option(dump: Dump) -> None:
    """A type that skops does not trust is named, and the option in the message is the one that allows it."""
    path = dump(KNeighborsClassifier(algorithm="kd_tree").fit(ROWS, SPECIES))
    with pytest.raises(
        ValueError, match=r"_dist_metrics.EuclideanDistance64, .*KDTree.*shop/7 with options="
    ) as raised:
        load(path)
    line = str(raised.value).partition("options=")[2]
    model = load(path, **json.loads(line))
    assert model.predict({"X": ROWS[:1]})["label"].tolist() == [0]


def test_the_option_named_keeps_what_was_trusted(dump: Dump) -> None:
    """Who trusts one of two types is told the line for both."""
    path = dump(KNeighborsClassifier(algorithm="kd_tree").fit(ROWS, SPECIES))
    with pytest.raises(ValueError, match=r'"trusted": \["sklearn.neighbors._kd_tree.KDTree", "sklearn.metrics'):
        load(path, trusted=["sklearn.neighbors._kd_tree.KDTree"])


def calling(name: str, *arguments: str) -> Callable[[dict[str, Any]], None]:
    """Return a change that makes an estimator's parameter the result of a call, which skops would make on load."""
    module_name, _, function = name.rpartition(".")

    def change(schema: dict[str, Any]) -> None:
        given = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
        texts = [given | {"content": json.dumps(text)} for text in arguments]
        packed = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": texts}
        schema["content"]["content"]["verbose"] = {
            "__class__": function,
            "__module__": module_name,
            "__loader__": "ConstructorFromReduceNode",
            "content": packed,
        }

    return change


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "sklearn.datasets._base.urlretrieve",  # a function that a module of scikit-learn has only imported
        "sklearn.datasets._openml.Request",  # a class of that kind
        "sklearn.utils._testing.TempMemmap",  # its own, and for its tests
        "sklearn.clone",  # its own function
        "sklearn.no_such_module.Thing",
    ],
)
def test_a_name_that_runs_code_needs_more_than_an_option(dump: Dump, tmp_path: Path, name: str) -> None:
    """Options may stand beside the file, so they cannot make it call what is not a class of scikit-learn."""
    target = tmp_path / "ran"
    path = rewrite(dump(linear()), calling(name, f"open({str(target)!r}, 'w')"))
    with pytest.raises(ValueError, match=rf"{name}.*and allow_code=True"):
        load(path)
    with pytest.raises(ValueError, match=rf"to trust {name}, .*allow_code=True"):
        load(path, trusted=[name])
    assert not target.exists()


def test_what_is_trusted_with_allow_code_runs(dump: Dump, tmp_path: Path) -> None:
    """The file of the test above is a real danger: where its name is trusted, loading it runs what it says."""
    target = tmp_path / "ran"
    path = rewrite(dump(linear()), calling("builtins.eval", f"open({str(target)!r}, 'w').close()"))
    SklearnLoader().load(allowed(path, "builtins.eval"))
    assert target.exists()


def test_other_packages_are_trusted_by_whoever_registers(dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version with allow_code=True may name functions of other packages; one thread at a time may call those."""
    monkeypatch.setattr(ours, "__module__", "ours")
    monkeypatch.setitem(sys.modules, "ours", sys.modules[test_text_is_one_string_per_row.__module__])
    path = dump(make_pipeline(FunctionTransformer(ours), GaussianNB()).fit(ROWS, SPECIES))
    with pytest.raises(ValueError, match=r'not trust: ours.ours\. .*"trusted": \["ours.ours"\]} and allow_code=True'):
        load(path)
    model = SklearnLoader().load(allowed(path, "ours.ours"))
    assert model.predict({"X": ROWS[:1]})["label"].tolist() == [0]
    assert not model.thread_safe


@pytest.mark.parametrize("name", ["model.pkl", "model.PICKLE", "model.joblib", "renamed.skops"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    """A pickle is refused by its name or its first byte, unopened, with how to convert it."""
    path = tmp_path / name
    path.write_bytes(b"\x80\x04." if name == "renamed.skops" else b"zlib")
    with pytest.raises(ValueError, match=r"shop/7\) is a pickle.*skops.io.dump"):
        load(path)


# --- options --------------------------------------------------------------------------------------------------------


def test_unknown_option_is_named(dump: Dump) -> None:
    """A misspelt option is named, together with the version and the options that exist."""
    with pytest.raises(ValueError, match=r"shop/7.*'trust'; .*'trusted', 'dtype', 'probabilities'"):
        load(dump(linear()), trust=[])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trusted", True),
        ("trusted", TREE),
        ("trusted", [1]),
        ("trusted", ["Tree"]),
        ("dtype", "float"),
        ("dtype", 64),
        ("probabilities", 1),
        ("max_unpacked_bytes", 0),
        ("max_unpacked_bytes", True),
    ],
)
def test_wrong_option_value_is_named(dump: Dump, name: str, value: object) -> None:
    """A value of the wrong kind is refused with the option's name before the file is read."""
    with pytest.raises(ValueError, match=f"option '{name}' of shop/7 is .*; it must be"):
        load(dump(linear()), **{name: value})


def test_dtype_and_probabilities_are_what_was_asked_for(dump: Dump) -> None:
    """Requests may be of another dtype, and whoever does not want probabilities does not pay for them."""
    model = load(dump(linear()), dtype="float32", probabilities=False)
    assert model.signature.inputs[0].dtype == "float32"
    assert [spec.name for spec in model.signature.outputs] == ["label"]
    assert set(model.predict({"X": ROWS.astype("float32")})) == {"label"}


# --- what cannot be served ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dumped", "wrong"),
    [
        (LogisticRegression(), "holds a LogisticRegression that was not fitted; call fit"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "holds a Pipeline that was not fitted"),
        (StandardScaler().fit(ROWS), "holds a StandardScaler, which has no predict"),
        (DBSCAN().fit(ROWS), "holds a DBSCAN, which has no predict for new rows"),
        ({"coef": [1.0]}, "holds a dict and no estimator"),
        (np.eye(2), "holds a ndarray and no estimator"),
        (float, "holds a type and no estimator"),
    ],
    ids=["unfitted", "unfitted pipeline", "transformer", "clusterer", "dict", "array", "class"],
)
def test_what_cannot_predict_is_refused(dump: Dump, dumped: Any, wrong: str) -> None:
    """What was not fitted, predicts nothing or is no estimator is refused at load, by what it is."""
    with pytest.raises(ValueError, match=rf"model.skops \(source of shop/7\) {wrong}"):
        load(dump(dumped))


def test_a_stranger_is_refused(dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only looks like an estimator, or is the class of one, is refused in scikit-learn's own words."""
    monkeypatch.setattr(Duck, "__module__", "ours")
    monkeypatch.setitem(sys.modules, "ours", sys.modules[test_text_is_one_string_per_row.__module__])
    with pytest.raises(ValueError, match=r"holds a \w+, which scikit-learn does not take for an estimator: .* class"):
        SklearnLoader().load(allowed(dump(GaussianNB), "sklearn.naive_bayes.GaussianNB"))
    with pytest.raises(ValueError, match=r"shop/7\) holds a Duck, which scikit-learn does not take for an estimator: "):
        SklearnLoader().load(allowed(dump(Duck()), "ours.Duck"))


def test_missing_file_and_directory(tmp_path: Path) -> None:
    """A path with nothing there, and one with a folder, are called what they are."""
    with pytest.raises(FileNotFoundError, match=r"gone.skops does not exist.*shop/7"):
        load(tmp_path / "gone.skops")
    with pytest.raises(IsADirectoryError, match=r"is a directory; shop/7"):
        load(tmp_path)


@pytest.mark.parametrize("tenths", [0, 1, 5, 9])
def test_truncated_file_says_so(dump: Dump, tenths: int) -> None:
    """A file that was cut short anywhere is refused with its path and its size."""
    path = dump(linear())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * tenths // 10])
    with pytest.raises(ValueError, match=r"model.skops .*shop/7\) (is empty|.*cut short at \d+ bytes)"):
        load(path)


def test_damaged_content_says_so(dump: Dump) -> None:
    """A flipped byte inside the zip is found by its checksum."""
    path = dump(linear())
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 130] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shop/7\) cannot be loaded: BadZipFile: Bad CRC"):
        load(path)


def deepen(schema: dict[str, Any]) -> None:
    """Nest an attribute deeper than Python recurses."""
    inner = schema["content"]["content"]["verbose"]
    for _ in range(400):
        kinds = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": []}
        inner = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": [inner, kinds]}
    schema["content"]["content"]["verbose"] = inner


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda schema: schema.pop("protocol"), "Invalid skops protocol"),
        (lambda schema: schema.update(protocol=999), "only supports protocols up to"),
        (lambda schema: schema.pop("__loader__"), "KeyError"),
        (deepen, "RecursionError"),
    ],
    ids=["no protocol", "future", "no loader", "deep"],
)
def test_malformed_schema_says_so(dump: Dump, change: Callable[[dict[str, Any]], None], wrong: str) -> None:
    """A zip whose schema is not one that skops can read is refused in skops' own words."""
    with pytest.raises(ValueError, match=rf"shop/7\) cannot be loaded: .*{wrong}"):
        load(rewrite(dump(linear()), change))


def test_another_zip_is_told_apart(tmp_path: Path) -> None:
    """A zip that skops did not write is called that."""
    with ZipFile(tmp_path / "other.skops", "w") as archive:
        archive.writestr("weights.bin", b"1")
    with pytest.raises(ValueError, match=r"is a zip without schema.json"):
        load(tmp_path / "other.skops")


def test_a_bomb_is_not_unpacked(dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unpacks to more than the limit is refused before anything is unpacked, with the option."""
    estimator = GaussianNB().fit(ROWS, SPECIES)
    estimator.ballast_ = np.zeros(10_000_000)
    path = dump(estimator, compression=ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(
        ValueError, match=r"unpacks to 80\d+ bytes, and the limit is 1000000; raise .*max_unpacked_bytes"
    ):
        load(path, max_unpacked_bytes=1_000_000)


# --- versions and packages ------------------------------------------------------------------------------------------


def test_another_version_of_scikit_learn_warns(dump: Dump) -> None:
    """A file of another scikit-learn is served, and scikit-learn's own warning reaches whoever listens."""
    from sklearn.exceptions import InconsistentVersionWarning

    path = rewrite(dump(linear()), written_by("1.0.2"))
    with pytest.warns(InconsistentVersionWarning, match=r"1\.0\.2"):
        model = load(path)
    assert model.predict({"X": ROWS[:1]})["label"].tolist() == [0]


def test_another_version_of_scikit_learn_can_be_refused(dump: Dump) -> None:
    """Where that warning is an error, as in these tests, the error says which version wrote the file."""
    path = rewrite(dump(linear()), written_by("1.0.2"))
    with pytest.raises(
        ValueError, match=r"(?s)InconsistentVersionWarning: .*\(written by scikit-learn 1\.0\.2; installed is"
    ):
        load(path)


def test_any_failure_names_the_other_version(dump: Dump) -> None:
    """Where a file of another version cannot be loaded for some other reason, the version is named beside it."""

    def change(schema: dict[str, Any]) -> None:
        written_by("1.0.2")(schema)
        schema["__class__"] = "LogisticRegressionOfOld"

    path = rewrite(dump(linear()), change)
    with pytest.raises(ValueError, match=r"not trust: sklearn\.linear_model\._logistic\.LogisticRegressionOfOld"):
        load(path)
    with pytest.raises(ValueError, match=r"AttributeError: .*OfOld.*written by scikit-learn 1\.0\.2"):
        SklearnLoader().load(allowed(path, "sklearn.linear_model._logistic.LogisticRegressionOfOld"))


def test_without_skops_the_extra_is_named(dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without skops the loader says what to install, for which version."""
    path = dump(linear())
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(LoaderNotInstalled, match=r'pip install "changeover\[sklearn\]"') as raised:
        load(path)
    assert (raised.value.model, raised.value.version) == ("shop", "7")


def test_it_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`changeover plugins` lists the loader as ready and, without skops, with what to install."""
    from changeover.cli import main

    def row() -> dict[str, Any]:
        assert main(["plugins", "--json"]) == 0
        (found,) = (row for row in json.loads(capsys.readouterr().out)["loaders"] if row["name"] == "sklearn")
        return found

    assert (row()["runs_code"], row()["missing"]) == (False, None)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    assert 'pip install "changeover[sklearn]"' in row()["missing"]
    assert listing.LOADERS == "changeover.loaders"


# --- in an engine ---------------------------------------------------------------------------------------------------


async def test_two_versions_change_over(tmp_path: Path) -> None:
    """Two real estimators change over under batched requests, and each answer is its version's own, row for row."""
    import trio

    estimators = {"1": linear(), "2": forest()}
    proba = {version: estimator.predict_proba(ROWS) for version, estimator in estimators.items()}
    answered: dict[str, int] = {"1": 0, "2": 0}
    async with changeover.open_engine() as engine:
        for version, estimator in estimators.items():
            skops.dump(estimator, tmp_path / f"{version}.skops")
            engine.register(
                "iris",
                version,
                tmp_path / f"{version}.skops",
                loader="sklearn",
                options={"trusted": [TREE]},
                execution="worker",
                batching=Batching(max_batch=16, max_delay_s=0.002),
            )
        await engine.load("iris", "1")
        done = trio.Event()

        async def client(row: int) -> None:
            after = False
            while not after:  # once more after the swap has ended
                after = done.is_set()
                reply = await engine.infer("iris", {"X": ROWS[row : row + 1]})
                expected = estimators[reply.version].predict(ROWS[row : row + 1])
                assert np.array_equal(reply.outputs["label"], expected)
                np.testing.assert_allclose(
                    reply.outputs["probabilities"], proba[reply.version][row : row + 1], rtol=1e-12
                )
                answered[reply.version] += 1

        async with trio.open_nursery() as nursery:
            for row in range(0, len(ROWS), 10):
                nursery.start_soon(client, row)
            await engine.swap("iris", to="2")
            done.set()
    assert all(answered.values())


async def test_a_refused_file_fails_its_load(dump: Dump) -> None:
    """What the loader says reaches whoever ordered the load, as `LoadFailed`."""
    async with changeover.open_engine() as engine:
        engine.register("iris", "1", dump(forest()), loader="sklearn")
        with pytest.raises(LoadFailed, match=rf"iris/1 was not loaded by 'sklearn'.*{TREE}.*iris/1 with options="):
            await engine.load("iris", "1")
