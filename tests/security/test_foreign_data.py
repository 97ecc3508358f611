"""Other people's token stores, recordings, tokenizers and text: what their files name stays in their directory, what they claim is checked against what is there,
and every refusal names the file. (Names in a token store's manifest: tests/data_pipeline/stores/test_store.py.)
"""

import copy as copies
import gzip
import io
import json
import os
import pickle
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax import batch as contract
from bert_jax import recorded
from bert_jax.interop import huggingface
from bert_jax.model.families import build_spec
from bert_jax.training.state import make_blueprint
from data_pipeline.sequences import plans
from data_pipeline.sequences.plan_parts import Settings
from data_pipeline.sources.corpus import Corpus
from data_pipeline.stores import checksums
from data_pipeline.stores.manifest import parse_manifest
from data_pipeline.stores.store import StoreError, TokenStore
from data_pipeline.tokenization import tokenizers
from data_pipeline.tokenization.tokenizers import TokenizerError
from launch.config import ConfigError
from launch.run import copy_tokenizer
from tests.data_pipeline import docstring_stores
from tests.security.conftest import SECTION

TEXT = ["The cat sat on the mat, and the dog lay beside it. Then they slept."] * 50


def numpy_file(array: np.ndarray, **header) -> bytes:
    """An .npy file, with a header that may lie."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array) | header)
    return file.getvalue() + array.tobytes()


def archive_file(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0.npy", numpy_file(array))
    return file.getvalue()


def lies(array: np.ndarray, canary) -> dict[str, bytes]:
    """Files that are not the array, by what is wrong with them."""
    content = np.empty(1, object)
    content[0] = canary.payload()
    return {
        "a pickle behind numpy's header": numpy_file(np.zeros(0), descr="|O", shape=(1,)) + pickle.dumps(content),
        "a bare pickle": pickle.dumps(content),
        "an archive": archive_file(array),
        "a shape beyond any memory": numpy_file(array, shape=(10**15,)),
        "a shape that overflows": numpy_file(array, shape=(2**40, 2**40)),
        "a negative shape": numpy_file(array, shape=(-4,)),
        "a header that is code": b"\x93NUMPY\x01\x00\x76\x00" + f"__import__('os').mkdir({str(canary.path)!r})".ljust(117).encode() + b"\n" + array.tobytes(),
        "text": array.astype("U3").tobytes(),
        "nothing": b"",
    }


# ---- token stores ----


@pytest.fixture
def store(tmp_path):
    return shutil.copytree(docstring_stores.documentation(), tmp_path / "store")


def forge(store: Path, name: str, content: bytes) -> None:
    """Replaces a file and makes the manifest agree."""
    (store / name).write_bytes(content)
    manifest = json.loads((store / "manifest.json").read_text())
    record = checksums.file_record(store / name)
    folder, _, file = name.rpartition("/")
    if folder:
        next(shard for split in manifest["splits"].values() for shard in split["shards"] if shard["name"] == folder)["files"][file] = record
    else:
        manifest["files"][file] = record
    (store / "manifest.json").write_text(json.dumps(manifest))


def test_an_array_of_a_store_is_numbers_of_the_stated_length(store, canary):
    first = TokenStore(store).shards[0]
    for array, read in (("tokens", lambda store: store.shards[0].tokens), ("unigram_counts", lambda store: store.unigram_counts)):
        name = "unigram_counts.npy" if array == "unigram_counts" else f"{first.directory.relative_to(store)}/{array}.npy"
        for kind, content in lies(np.load(store / name, allow_pickle=False), canary).items():
            forge(store, name, content)
            with pytest.raises(StoreError, match=f"{array}.npy"):
                read(TokenStore(store))
                pytest.fail(kind)
    assert not canary.path.exists()


def test_a_manifest_of_a_million_brackets_is_no_crash():
    for content in (b"[" * 1_000_000, b'{"format":' * 100_000, b"\xff", b'{"format": ' + b"9" * 5000 + b"}"):
        with pytest.raises(StoreError, match="not valid JSON"):
            parse_manifest(content, "manifest.json")


def test_a_tokenizer_that_links_elsewhere_is_not_copied(tmp_path):
    (tmp_path / "secret").write_text("s3cret")
    foreign = tmp_path / "store" / "tokenizer"
    tokenizers.train(TEXT, foreign, vocab_size=60)
    (tmp_path / "workdir").mkdir()
    copy_tokenizer(foreign, tmp_path / "workdir")
    shutil.rmtree(tmp_path / "workdir" / "tokenizer")
    (foreign / "added_tokens.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match="added_tokens.json is a symbolic link"):
        copy_tokenizer(foreign, tmp_path / "workdir")
    (tmp_path / "linked").symlink_to(foreign)
    with pytest.raises(ConfigError, match="linked is a symbolic link"):
        copy_tokenizer(tmp_path / "linked", tmp_path / "workdir")
    assert not list((tmp_path / "workdir").iterdir())


def test_plans_are_not_taken_from_a_directory_that_others_may_write(store, tmp_path, monkeypatch):
    """The temporary directory is everybody's, and the name is easily guessed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "shared"))
    shutil.rmtree(store / "plans", ignore_errors=True)
    (store / "plans").write_text("")  # where none can be kept
    settings = Settings("full_sentences", 64, 0.0, 1, 0)
    taken = tmp_path / "shared" / f"bert_jax_plans_{os.getuid()}"
    taken.mkdir(parents=True)
    taken.chmod(0o777)
    with pytest.raises(PermissionError, match="others may write"):
        plans.cached(TokenStore(store), settings)
    taken.chmod(0o700)
    made = plans.cached(TokenStore(store), settings)
    assert made.parent == taken and plans.cached(TokenStore(store), settings) == made
    taken.rename(tmp_path / "elsewhere")
    taken.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        plans.cached(TokenStore(store), settings)


# ---- recorded batches ----


@pytest.fixture
def recording(tmp_path):
    batch = contract.zeros(4, 8, 2, nsp=False)
    recorded.write(tmp_path / "recording", [batch, batch], {"seed": 1})
    return tmp_path / "recording"


def rewrite(recording: Path, change) -> None:
    manifest = json.loads((recording / "manifest.json").read_text())
    change(manifest)
    (recording / "manifest.json").write_text(json.dumps(manifest))


def record_of(path: Path) -> dict:
    return checksums.file_record(path)


def test_a_recording_names_its_own_files_only(recording, tmp_path):
    (tmp_path / "secret").write_text("s3cret")
    before = (recording / "manifest.json").read_bytes()
    (recording / "link.npy").symlink_to(tmp_path / "secret")
    (recording / "up").symlink_to(tmp_path)
    for name in ("../secret", str(tmp_path / "secret"), "tokenizer/../../secret", "link.npy", "up/secret", "./secret", "", "a\0b"):
        rewrite(recording, lambda manifest: manifest["files"].update({name: record_of(tmp_path / "secret")}))
        with pytest.raises(recorded.RecordingError, match="manifest.json names"):
            recorded.RecordedBatches(recording)
        (recording / "manifest.json").write_bytes(before)
    recorded.RecordedBatches(recording)


def test_a_recordings_manifest_of_another_kind_is_refused(recording):
    before = (recording / "manifest.json").read_bytes()
    changes = [
        *({name: value} for name in recorded.SIZES for value in (10**15, -1, 1.5, True, "4", None, [4])),
        {"description": [1]}, {"description": None}, {"files": []}, {"files": {"input_ids.npy": 3}}, {"files": None}, {"files": {}},
    ]
    for change in changes:
        rewrite(recording, lambda manifest: manifest.update(change))
        with pytest.raises(recorded.RecordingError, match=str(recording)):
            recorded.RecordedBatches(recording)
        (recording / "manifest.json").write_bytes(before)
    for content in (b"[" * 1_000_000, b"", b"[]", b"\xff"):
        (recording / "manifest.json").write_bytes(content)
        with pytest.raises(recorded.RecordingError, match="manifest.json"):
            recorded.RecordedBatches(recording)


def test_a_recorded_array_is_numbers_of_the_stated_shape(recording, canary):
    array = np.load(recording / "input_ids.npy", allow_pickle=False)
    others = {"floats": numpy_file(array.astype(np.float32)), "transposed": numpy_file(array.T.copy()), "records": numpy_file(np.zeros(array.shape, "u1,u1"))}
    for kind, content in (lies(array, canary) | others).items():
        (recording / "input_ids.npy").write_bytes(content)
        rewrite(recording, lambda manifest: manifest["files"].update({"input_ids.npy": record_of(recording / "input_ids.npy")}))
        with pytest.raises(recorded.RecordingError, match="input_ids.npy"):
            recorded.RecordedBatches(recording)
            pytest.fail(kind)
    assert not canary.path.exists()


# ---- tokenizers ----


@pytest.fixture(scope="module", params=["wordpiece", "byte_bpe", "sentencepiece_unigram"])
def tokenizer(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    tokenizers.train(TEXT, directory, request.param, vocab_size=300 if request.param == "byte_bpe" else 40)
    return directory


def of_model(**values):
    return lambda content: content["model"].update(values)


def of_file(**values):
    return lambda content: content.update(values)


# Where one of them is harmless for a kind that ignores it, the tokenizer may be taken.
FORGED = {
    "no model": lambda content: content.pop("model"),
    "model": of_file(model=[1]),
    "vocabulary": of_model(vocab=None),
    "vocabulary of ids": of_model(vocab=3),
    "negative id": of_model(vocab={"[PAD]": -1}),
    "huge id": of_model(vocab={token: 2**32 - 1 - number for number, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<unk>", "<s>", "</s>", "<mask>"))}),
    "empty": of_model(vocab={}),
    "added tokens": of_file(added_tokens="x"),
    "added numbers": of_file(added_tokens=[1]),
    "added nothing": of_file(added_tokens=[{"id": 1}]),
    "pre-tokenizer": of_file(pre_tokenizer=[1]),
    "pre-tokenizer in words": of_file(pre_tokenizer="ByteLevel"),
    "pre-tokenizers": of_file(pre_tokenizer={"type": "Sequence", "pretokenizers": [1]}),
    "normalizer": of_file(normalizer="x"),
    "a normalizer that panics": of_file(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "decoder": of_file(decoder={"type": "x"}),
}


def test_a_forged_tokenizer_json_is_refused(tokenizer, tmp_path):
    good = json.loads((tokenizer / "tokenizer.json").read_text())
    contents = {name: json.dumps(changed(good, change)).encode() for name, change in FORGED.items()}
    contents |= {"brackets": b"[" * 1_000_000, "objects": b'{"a":' * 100_000, "list": b"[]", "no UTF-8": b"\xff", "empty file": b""}
    for name, content in contents.items():
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(TokenizerError, match=str(tmp_path)):
            tokenizers.load(tmp_path)
            pytest.fail(name)


def changed(content: dict, change) -> dict:
    content = copies.deepcopy(content)
    change(content)
    return content


def test_nothing_a_tokenizers_config_says_is_run_or_crashes(tokenizer, tmp_path, canary):
    shutil.copy(tokenizer / "tokenizer.json", tmp_path)
    canary.plant(tmp_path)
    remote = {"auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}, "trust_remote_code": True}
    for config in (
        [], {"tokenizer_class": ["x"]}, {"tokenizer_class": 3}, {"mask_token": ["x"]}, {"cls_token": 5}, {"cls_token": {"content": {"a": 1}}}, {"strip_accents": [1]},
        {"tokenizer_class": "__import__('os')"}, remote, remote | {"tokenizer_class": "tokenization_evil.Evil"},
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        try:
            assert tokenizers.load(tmp_path).vocab_size > 10
        except TokenizerError as error:
            assert str(tmp_path) in str(error)
    assert not canary.path.exists()


def test_other_forms_of_tokenizers_are_refused_too(tmp_path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for files in (
        {"vocab.txt": b"\xff"}, {"vocab.txt": b""}, {"vocab.txt": "\n".join([*special, "a", "a"]).encode()}, {"spiece.model": b"\xff\xff"}, {"spiece.model": b""},
        {"vocab.json": b'{"a": "x"}', "merges.txt": b""}, {"vocab.json": b'{"<s>": 1099511627776, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}', "merges.txt": b""},
        {"vocab.txt": "\n".join(special).encode(), "config.json": b'{"model_type": ["x"]}'},
    ):
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        for name, content in files.items():
            (directory / name).write_bytes(content)
        with pytest.raises(TokenizerError, match=str(directory)):
            tokenizers.load(directory)
            pytest.fail(str(files))


def test_an_export_passes_no_code_on(tokenizer, tmp_path):
    mine = shutil.copytree(tokenizer, tmp_path / "tokenizer")
    path = mine / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    (mine / "evil.py").write_text("raise SystemExit")
    section = SECTION | {"vocab_size": tokenizers.load(mine).vocab_size}
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), make_blueprint(build_spec(section)).params)
    huggingface.export(params, section, mine, tmp_path / "out")
    assert "auto_map" not in (tmp_path / "out" / "tokenizer_config.json").read_text() + (tmp_path / "out" / "config.json").read_text()
    assert not list((tmp_path / "out").glob("*.py"))


# ---- text ----


def test_a_small_file_that_unpacks_into_a_huge_line_does_not_fill_the_memory(tmp_path):
    """2 GB of one line are 2 MB compressed, of which the first 40 MB are read here."""
    block = gzip.compress(b"a" * (64 << 20), 9, mtime=0)
    (tmp_path / "bomb.txt.gz").write_bytes(block * 32)
    (tmp_path / "bomb.jsonl.gz").write_bytes(block * 2)
    tracemalloc.start()
    for number, document in enumerate(Corpus(tmp_path / "bomb.txt.gz")):
        assert len(document) <= 1 << 20
        if number == 40:
            break
    with pytest.raises(ValueError, match="JSON line too long"):
        list(Corpus(tmp_path / "bomb.jsonl.gz"))
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    for name in ("a.zip", "a.txt.xz", "a.txt.bz2", "a.tar"):
        (tmp_path / name).write_bytes(b"PK\x03\x04\0\0")
        with pytest.raises(ValueError):
            list(Corpus(tmp_path / name))
