"""Activation functions: arrays of any shape and float dtype enter, the same leave. Both forms of GELU are computed in float32, and keep only their input of the forward pass."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Function = Callable[[jax.Array], jax.Array]


def _differentiable(exact: tuple[Function, Function], narrow: tuple[Function, Function] | None = None) -> Function:
    """A function and its derivative, both of float32 arrays. narrow: others for the values of bfloat16 arrays, which enter as float32."""

    def of(x: jax.Array) -> tuple[Function, Function]:
        return narrow if narrow is not None and x.dtype == jnp.bfloat16 else exact

    def wide(x: jax.Array) -> jax.Array:
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    @jax.custom_vjp
    def activation(x: jax.Array) -> jax.Array:
        function, _ = of(x)
        return function(wide(x)).astype(x.dtype)

    def backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
        _, slope = of(x)
        return ((slope(wide(x)) * wide(gradient)).astype(x.dtype),)

    activation.defvjp(lambda x: (activation(x), x), backward)
    return activation


_FLAT = 36.0  # the square of where both forms are x or 0, to float32


def _normal_cdf(x: jax.Array) -> jax.Array:
    """By erf, as torch has it. By erfc, as `jax.nn.gelu`, small results are exact relative to themselves, and the down-projection behind it takes twice the time on TPUs."""
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _normal_density(x: jax.Array) -> jax.Array:
    return jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


_CUBE = 0.044715


def _tanh_cdf(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jnp.tanh(math.sqrt(2 / math.pi) * (x + _CUBE * x**3))


def _tanh_gelu_slope(x: jax.Array) -> jax.Array:
    cdf = _tanh_cdf(x)
    return cdf + 2 * cdf * (1 - cdf) * x * math.sqrt(2 / math.pi) * (1 + 3 * _CUBE * jnp.minimum(x * x, _FLAT))


# erf(x / sqrt(2)) = tanh(x p(x^2)) to 4e-5 of GELU and 1e-4 of its slope, the best fit of this degree on [-6, 6]: a twentieth of what rounding to bfloat16 takes from results of size 1. A
# rational erf has three times the operations, which TPUs do once for every tile of the product behind them.
_P = (0.79745006, 0.03698858, -0.00034292514)
_SLOPE_OF_XP = tuple((2 * power + 1) * coefficient for power, coefficient in enumerate(_P))  # of x p(x^2)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    return functools.reduce(lambda sum, coefficient: sum * x + coefficient, reversed(coefficients))


def _narrow_erf(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(erf(x / sqrt(2)), x^2 where that is not yet 1)."""
    square = jnp.minimum(x * x, _FLAT)
    return jnp.tanh(x * _polynomial(_P, square)), square


def _narrow_gelu(x: jax.Array) -> jax.Array:
    return 0.5 * x + 0.5 * x * _narrow_erf(x)[0]


def _narrow_gelu_slope(x: jax.Array) -> jax.Array:
    tanh, square = _narrow_erf(x)
    return 0.5 + 0.5 * tanh + 0.5 * x * (1 - tanh * tanh) * _polynomial(_SLOPE_OF_XP, square)


gelu = _differentiable((lambda x: x * _normal_cdf(x), lambda x: _normal_cdf(x) + x * _normal_density(x)), (_narrow_gelu, _narrow_gelu_slope))
gelu_tanh = _differentiable((lambda x: x * _tanh_cdf(x), _tanh_gelu_slope))

ACTIVATION_FUNCTIONS: dict[str, Function] = {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": jax.nn.relu, "silu": jax.nn.silu, "tanh": jnp.tanh}
