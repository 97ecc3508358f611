"""The file of a SentencePiece model. Enters: a path. Leaves: its pieces, scores and settings.

Only the fields needed are declared here, by the numbers of sentencepiece_model.proto: the module that comes with the sentencepiece package
is bound to one version of protobuf, often another than TensorFlow's.
"""

import dataclasses
import functools
from pathlib import Path

from data_pipeline.tokenization.tokenizer_parts import TokenizerError

_STRING, _FLOAT, _INT, _BOOL, _BYTES, _MESSAGE = 9, 2, 5, 8, 12, 11  # FieldDescriptorProto.Type
_FIELDS = {
    "Piece": [("piece", 1, _STRING), ("score", 2, _FLOAT), ("type", 3, _INT)],
    "Trainer": [("model_type", 3, _INT), ("treat_whitespace_as_suffix", 24, _BOOL), ("byte_fallback", 35, _BOOL), ("unk_id", 40, _INT)],
    "Normalizer": [
        ("precompiled_charsmap", 2, _BYTES), ("add_dummy_prefix", 3, _BOOL), ("remove_extra_whitespaces", 4, _BOOL),
        ("escape_whitespaces", 5, _BOOL),
    ],
    "Model": [("pieces", 1, "Piece"), ("trainer", 2, "Trainer"), ("normalizer", 3, "Normalizer")],
}  # fmt: skip
_DEFAULTS = {"model_type": "1", "add_dummy_prefix": "true", "remove_extra_whitespaces": "true", "escape_whitespaces": "true", "type": "1"}
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_NORMAL, _USER_DEFINED = 1, 4


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
    """pieces: (text, score) by id; text_pieces: for each piece whether text can become it; charsmap: the compiled normalizer, or empty."""

    algorithm: str  # "unigram" or "bpe"
    pieces: list[tuple[str, float]]
    text_pieces: list[bool]
    unk_id: int
    charsmap: bytes


def read(path: Path) -> SentencePieceModel:
    """Raises TokenizerError if the file is no model, or of a kind that Hugging Face's tokenizers cannot express."""
    message_class = _message_class()
    try:
        model = message_class.FromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError, and protobuf is imported above only
        raise TokenizerError(f"{path} is not a SentencePiece model: {error}") from None
    algorithm = _MODEL_TYPES.get(model.trainer.model_type, str(model.trainer.model_type))
    if not model.pieces or not 0 <= model.trainer.unk_id < len(model.pieces):
        raise TokenizerError(f"{path} is not a SentencePiece model: it has {len(model.pieces)} pieces, unk_id {model.trainer.unk_id}")
    for setting, found, wanted in (
        ("model_type", algorithm in ("unigram", "bpe"), True),
        ("byte_fallback", model.trainer.byte_fallback, False),
        ("treat_whitespace_as_suffix", model.trainer.treat_whitespace_as_suffix, False),
        ("add_dummy_prefix", model.normalizer.add_dummy_prefix, True),
        ("remove_extra_whitespaces", model.normalizer.remove_extra_whitespaces, True),
        ("escape_whitespaces", model.normalizer.escape_whitespaces, True),
    ):
        if found != wanted:
            value = algorithm if setting == "model_type" else str(found).lower()
            raise TokenizerError(f"{path} has {setting} {value}, which is not supported; train another model")
    return SentencePieceModel(
        algorithm=algorithm,
        pieces=[(piece.piece, piece.score) for piece in model.pieces],
        text_pieces=[piece.type in (_NORMAL, _USER_DEFINED) for piece in model.pieces],
        unk_id=model.trainer.unk_id,
        charsmap=model.normalizer.precompiled_charsmap,
    )


@functools.cache
def _message_class():
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise ImportError("reading a SentencePiece model needs protobuf: pip install protobuf") from None
    package = "bert_jax.sentencepiece"
    file = descriptor_pb2.FileDescriptorProto(name="bert_jax_sentencepiece.proto", package=package, syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            declared = message.field.add(name=field, number=number, type=_MESSAGE if isinstance(kind, str) else kind)
            declared.label = declared.LABEL_REPEATED if field == "pieces" else declared.LABEL_OPTIONAL
            if isinstance(kind, str):
                declared.type_name = f".{package}.{kind}"
            elif field in _DEFAULTS:
                declared.default_value = _DEFAULTS[field]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Model"))
