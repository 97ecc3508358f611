"""A family that is another one with a few things changed states these alone, and takes the other's keywords besides."""

import dataclasses
import functools
import inspect
from collections.abc import Callable

from bert_jax.model.spec import AttentionSpec, ModelSpec


def varies(base: Callable, *, without: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """Decorates a function of its own keywords and **sizes: it takes those of `base` too, which arrive in `sizes`, but for the names in `without`.

    The function's signature says so, and a call with an unknown or missing keyword is a TypeError that names it.
    """

    def decorate(make: Callable) -> Callable:
        own = {name: keyword for name, keyword in inspect.signature(make).parameters.items() if keyword.kind is inspect.Parameter.KEYWORD_ONLY}
        inherited = {name: keyword for name, keyword in inspect.signature(base).parameters.items() if name not in without}
        signature = inspect.Signature(list((inherited | own).values()))

        @functools.wraps(make)
        def checked(**given):
            signature.bind(**given)
            return make(**given)

        checked.__signature__ = signature
        return checked

    return decorate


def with_attention(spec: ModelSpec, kind: type[AttentionSpec], **numbers: int) -> ModelSpec:
    """The spec with attention of another kind, otherwise as it was."""
    return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, attention=kind(**vars(spec.encoder.attention) | numbers)))
