"""SentencePiece (Kudo and Richardson 2018), unigram (Kudo 2018) and BPE, in the layouts of ALBERT, XLM-R and DeBERTa-v2.

Enters: a directory with tokenizer.json, or with spiece.model, sentencepiece.bpe.model or spm.model. Leaves: `Parts`. Ids are those of
transformers' classes of these names, which normalise text before the model does, cut it at white space, and put a ▁ before each word.
"""

import base64
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import tokenizers as hf_tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from data_pipeline.tokenization import sentencepiece_proto
from data_pipeline.tokenization.tokenizer_parts import (
    Parts,
    TokenizerError,
    check_added_tokens,
    check_special,
    config_files,
    finish_library,
    read_library,
    special_tokens,
    vocabulary_in_order,
)  # fmt: skip
from data_pipeline.tokenization.word_cache import WordEncoder
from data_pipeline.tokenization.word_starts import continues_word

SPACE = "▁"
_SPACE_BYTES = SPACE.encode()


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a family stores and prepares a model: its file, its special tokens, and whether text is lower-cased if the config is silent."""

    file: str
    special: dict[str, str]
    lowercase: bool


_BERT_NAMES = {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
LAYOUTS = {
    "AlbertTokenizer": Layout("spiece.model", {"pad": "<pad>", "unk": "<unk>", **_BERT_NAMES}, True),
    "XLMRobertaTokenizer": Layout(
        "sentencepiece.bpe.model", {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}, False
    ),
    "DebertaV2Tokenizer": Layout("spm.model", {"pad": "[PAD]", "unk": "[UNK]", **_BERT_NAMES}, False),
}
GENERIC = "PreTrainedTokenizerFast"  # transformers then takes tokenizer.json as it is
_GENERIC_CLASSES = ("", "PreTrainedTokenizer", "TokenizersBackend")
MODEL_FILES = tuple(layout.file for layout in LAYOUTS.values())

# Of the normalizers, these change no space and look across none. (Others may as well, but only these are tested.)
_LOCAL_NORMALIZERS = {"Replace", "NFKD", "NFC", "StripAccents", "Lowercase", "Precompiled", "Strip"}
_PLAIN_WORD = re.compile(" ?[!-~]+")
_QUOTES = ("``", "''")  # ALBERT's spellings of "


def load_model(path: Path, config: dict) -> Parts:
    """path: of one of MODEL_FILES; its name decides the layout where the config names no class."""
    model = sentencepiece_proto.read(path)
    layout_of_file = next(name for name, layout in LAYOUTS.items() if layout.file == path.name)
    return build_parts(model, _layout_name(path, config) or layout_of_file, path, config)


def build_parts(model: sentencepiece_proto.SentencePieceModel, layout_name: str, path: Path, config: dict) -> Parts:
    if model.algorithm == "bpe" or layout_name == GENERIC:
        settings = _settings("AlbertTokenizer", {"do_lower_case": False, "keep_accents": True} | config)
        special = special_tokens(config, LAYOUTS["AlbertTokenizer"].special)
        check_special(path, special, {piece for piece, _ in model.pieces}, "SentencePiece BPE")
        hf = hf_tokenizers.Tokenizer(_bpe(model.pieces, special["unk"]) if model.algorithm == "bpe" else _unigram(model.pieces, special))
        hf.normalizer = _albert_normalizer(settings, model.charsmap)
        return _parts(_assemble(hf, special), special, GENERIC, settings, path, model)
    special = LAYOUTS[layout_name].special
    pieces = model.pieces
    if layout_name == "XLMRobertaTokenizer":  # fairseq's order stands before the pieces
        if [piece for piece, _ in pieces[:3]] != ["<unk>", "<s>", "</s>"]:
            raise TokenizerError(f"{path} does not begin with <unk>, <s>, </s>; XLM-R's models do")
        pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces[3:], ("<mask>", 0.0)]
    if layout_name == "AlbertTokenizer":
        # ALBERT splits a comma from the digit before it; a low score does the same, as in the published tokenizer.json.
        pieces = [(piece, score - 100 if re.search(r"\d,$", piece) else score) for piece, score in pieces]
    settings = _settings(layout_name, config)
    return _parts(_build_unigram(layout_name, pieces, model.charsmap, settings, path), special, layout_name, settings, path, model)


def load_json(path: Path, content: dict, config: dict) -> Parts:
    """content: of tokenizer.json, with a Unigram or BPE model and a Metaspace pre-tokenizer."""
    layout_name = _layout_name(path, config) or GENERIC
    special = LAYOUTS[layout_name].special if layout_name != GENERIC else _guess_special(path, content, config)
    check_added_tokens(path, content, {*special.values(), *(token["content"] for token in content["added_tokens"] if token["special"])})
    if layout_name != GENERIC and isinstance(content["model"]["vocab"], list):  # as transformers: anew from the pieces and the config
        charsmap = next((part["precompiled_charsmap"] for part in _normalizers(content) if part["type"] == "Precompiled"), "")
        pieces = [(piece, score) for piece, score in content["model"]["vocab"]]
        settings = _settings(layout_name, config)
        hf = _build_unigram(layout_name, pieces, base64.b64decode(charsmap), settings, path)
    else:
        layout_name = GENERIC
        settings = {name: config[name] for name in ("do_lower_case", "keep_accents") if name in config}
        hf = read_library(path)
    model_files = [path.with_name(name) for name in MODEL_FILES if path.with_name(name).is_file()]
    return _parts(hf, special, layout_name, settings, model_files[0] if model_files else path, None)


def has_metaspace(content: dict) -> bool:
    pre_tokenizer = content.get("pre_tokenizer") or {}
    return any(part["type"] == "Metaspace" for part in pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if part)


def _layout_name(path: Path, config: dict) -> str | None:
    """None if the config leaves the class open."""
    name = config["tokenizer_class"]
    if name in LAYOUTS:
        return name
    if name in _GENERIC_CLASSES:
        return GENERIC if name and path.name == "tokenizer.json" else None
    known = ", ".join([*LAYOUTS, GENERIC])
    raise TokenizerError(f"{path.parent}: tokenizer_class {name} is not supported with SentencePiece; known: {known}")


def _settings(layout_name: str, config: dict) -> dict:
    settings = {"do_lower_case": bool(config.get("do_lower_case", LAYOUTS[layout_name].lowercase))}
    if layout_name == "AlbertTokenizer":
        settings["keep_accents"] = bool(config.get("keep_accents", False))
    if layout_name == "DebertaV2Tokenizer" and config.get("split_by_punct"):
        raise TokenizerError("split_by_punct in tokenizer_config.json is not supported; DeBERTa's own models do without it")
    return settings


def _unigram(pieces: list[tuple[str, float]], special: dict[str, str]) -> models.Unigram:
    return models.Unigram(pieces, unk_id=[piece for piece, _ in pieces].index(special["unk"]), byte_fallback=False)


def _bpe(pieces: list[tuple[str, float]], unk: str) -> models.BPE:
    """SentencePiece's BPE joins the two neighbours whose union has the best score: a merge for every way to halve a piece."""
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces:
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [(-score, ids[left], ids[right], left, right) for left, right in halves if left in ids and right in ids]
    return models.BPE(ids, [merge[3:] for merge in sorted(merges)], unk_token=unk, fuse_unk=True, byte_fallback=False)


def _build_unigram(
    layout_name: str, pieces: list[tuple[str, float]], charsmap: bytes, settings: dict, path: Path
) -> hf_tokenizers.Tokenizer:
    special = LAYOUTS[layout_name].special
    added = {special["mask"]} if layout_name == "DebertaV2Tokenizer" else set()  # its [MASK] comes after the pieces
    check_special(path, special, {piece for piece, _ in pieces} | added, layout_name)
    hf = hf_tokenizers.Tokenizer(_unigram(pieces, special))
    if layout_name == "AlbertTokenizer":
        hf.normalizer = _albert_normalizer(settings, charsmap)
    elif layout_name == "XLMRobertaTokenizer" and charsmap:
        hf.normalizer = normalizers.Precompiled(charsmap)
    elif layout_name == "DebertaV2Tokenizer":
        steps = [normalizers.Lowercase()] if settings["do_lower_case"] else []
        steps += [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(left=False, right=True)]
        hf.normalizer = normalizers.Sequence(steps)
    return _assemble(hf, special, splits_white_space=layout_name != "DebertaV2Tokenizer")


def _albert_normalizer(settings: dict, charsmap: bytes) -> normalizers.Normalizer:
    steps = [normalizers.Replace(quotes, '"') for quotes in _QUOTES]
    if not settings["keep_accents"]:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings["do_lower_case"]:
        steps.append(normalizers.Lowercase())
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    return normalizers.Sequence(steps)


def training_normalizer(lowercase: bool) -> normalizers.Normalizer:
    """What ALBERT does to text before SentencePiece normalises it."""
    return _albert_normalizer({"do_lower_case": lowercase, "keep_accents": not lowercase}, b"")


def _assemble(hf: hf_tokenizers.Tokenizer, special: dict[str, str], splits_white_space: bool = True) -> hf_tokenizers.Tokenizer:
    metaspace = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    hf.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit()] * splits_white_space + [metaspace])
    hf.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    hf.add_special_tokens([AddedToken(token, lstrip=role == "mask", normalized=False) for role, token in special.items()])
    cls, sep = special["cls"], special["sep"]
    middle = f"{sep} {sep}:1 $B:1 {sep}:1" if cls == "<s>" else f"{sep} $B:1 {sep}:1"
    hf.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {middle}", special_tokens=[(cls, hf.token_to_id(cls)), (sep, hf.token_to_id(sep))]
    )
    return hf


def _parts(
    hf: hf_tokenizers.Tokenizer, special: dict[str, str], layout_name: str, settings: dict, path: Path,
    model: sentencepiece_proto.SentencePieceModel | None,
) -> Parts:  # fmt: skip
    finish_library(hf)
    vocabulary = vocabulary_in_order(hf)
    content = json.loads(hf.to_str())
    never_text = {token["content"] for token in content["added_tokens"] if token["special"]}
    if model:
        never_text |= {piece for (piece, _), is_text in zip(model.pieces, model.text_pieces) if not is_text}
    never_text &= set(vocabulary)
    files = config_files(layout_name, special, **settings)
    if path.suffix == ".model":
        files[path.name] = path.read_bytes()
    return Parts(
        kind=f"sentencepiece_{content['model']['type'].lower()}",
        hf=hf,
        encoder=SentencePieceEncoder(hf, special["unk"], never_text),
        special=special,
        extra_special=sorted(hf.token_to_id(token) for token in never_text - set(special.values())),
        definition=["sentencepiece", *(content[part] for part in ("normalizer", "pre_tokenizer", "model")), sorted(never_text)],
        surface=lambda token: _surface(vocabulary[token], never_text),
        files=files,
    )


class SentencePieceEncoder(WordEncoder):
    """Encodes sentences as `hf` does, but that text never becomes one of the pieces `never_text`.

    Special pieces stand in the model like others, so that a literal "<pad>" in the text would become one; here they are renamed.
    """

    def __init__(self, hf: hf_tokenizers.Tokenizer, unk: str, never_text: set[str]):
        content = json.loads(hf.to_str())
        content["added_tokens"] = []
        content["post_processor"] = None
        if content["model"]["type"] == "Unigram":  # no text has a space here, and the BPE model makes merges only
            vocabulary = content["model"]["vocab"]
            content["model"]["vocab"] = [[f"{piece} " if piece in never_text else piece, score] for piece, score in vocabulary]
        super().__init__(hf.get_vocab_size(), remembers=_is_local(content))
        self.library = hf_tokenizers.Tokenizer.from_str(json.dumps(content))
        self._model = self.library.model
        self._normalize = self.library.normalizer.normalize_str if self.library.normalizer else str
        self._unk_id = hf.token_to_id(unk)
        self._tokens = list(map(_bytes, vocabulary_in_order(hf)))
        ascii_text = "".join(map(chr, range(0x21, 0x7F)))
        normal = self._normalize(ascii_text)
        self._plain = {ascii_text: str, ascii_text.lower(): str.lower}.get(normal) if self._remembers else None

    def encode_continuation(self, text: str) -> np.ndarray:
        word, space, rest = text.partition(" ")
        normal = self._normalize(word)
        if not normal or any(character.isspace() for character in word + normal):
            return self.encode_sentences([text])[0]
        ids = np.array([token.id for token in self._model.tokenize(normal)], self._dtype)
        return np.concatenate([ids, self.encode_sentences([space + rest])[0]])

    def _encode(self, text: str) -> tuple[list[int], list[bytes], list[int]]:
        encoding = self.library.encode(text, add_special_tokens=False)
        ids = encoding.ids
        offsets = [start for start, _ in encoding.offsets]
        if self._unk_id not in ids:
            return ids, [self._tokens[number] for number in ids], offsets
        words = self.library.pre_tokenizer.pre_tokenize_str(self._normalize(text))
        return ids, [token for word, _ in words for token in self._pieces(word, self._model.tokenize(word))], offsets

    def _encode_word(self, word: str) -> tuple[list[int], list[bytes]]:
        if self._plain is None or not _PLAIN_WORD.fullmatch(word) or any(quotes in word for quotes in _QUOTES):
            return super()._encode_word(word)
        text = SPACE + self._plain(word.removeprefix(" "))
        found = self._model.tokenize(text)
        ids = [token.id for token in found]
        return ids, self._pieces(text, found) if self._unk_id in ids else [self._tokens[number] for number in ids]

    def _pieces(self, word: str, tokens: list[hf_tokenizers.Token]) -> list[bytes]:
        """The text of the tokens of a normalised word, also of the unknown ones. Their offsets are in bytes."""
        content = word.encode()
        return [content[slice(*token.offsets)].replace(_SPACE_BYTES, b" ") for token in tokens]


def _bytes(piece: str) -> bytes:
    return piece.encode().replace(_SPACE_BYTES, b" ")


def _surface(piece: str, never_text: set[str]) -> tuple[str, bool]:
    if piece in never_text:
        return piece, False
    return piece.removeprefix(SPACE) or "␣", continues_word(_bytes(piece))


def _normalizers(content: dict) -> list[dict]:
    normalizer = content.get("normalizer")
    return normalizer.get("normalizers", [normalizer]) if normalizer else []


def _is_local(content: dict) -> bool:
    """Whether words can be encoded each by itself. content: of tokenizer.json."""
    steps = content["pre_tokenizer"].get("pretokenizers", [content["pre_tokenizer"]])
    cuts = [step["type"] for step in steps]
    metaspace = steps[-1]
    return (
        cuts in (["WhitespaceSplit", "Metaspace"], ["Metaspace"])
        and metaspace["prepend_scheme"] == "always"
        and metaspace.get("split", True)
        and metaspace["replacement"] == SPACE
        and all(step["type"] in _LOCAL_NORMALIZERS for step in _normalizers(content))
    )


def _guess_special(path: Path, content: dict, config: dict) -> dict[str, str]:
    """The special tokens that the config names, or else those of the layout whose tokens are all there."""
    vocabulary = content["model"]["vocab"]
    names = {entry[0] for entry in vocabulary} if isinstance(vocabulary, list) else set(vocabulary)
    names |= {token["content"] for token in content["added_tokens"]}
    candidates = [layout.special for layout in LAYOUTS.values() if set(layout.special.values()) <= names]
    special = special_tokens(config, candidates[0] if candidates else LAYOUTS["AlbertTokenizer"].special)
    check_special(path, special, names, "SentencePiece")
    return special
