#!/usr/bin/env python3
"""Computes the polynomial coefficients of kernels/math_coefficients.h: run it and compare, or redirect.

Each polynomial is the weighted least squares fit at Chebyshev nodes, re-weighted a few times towards
the minimax one (Lawson's iteration). The errors of the finished functions are measured by checkkernel.
Needs numpy.
"""
import math

import numpy as np


def fit(target, weight, low, high, degree, power=lambda x: x):
    """Coefficients c of sum c[i] * power(x)**i that minimise max |weight * (polynomial - target)|."""
    nodes = 4000
    x = 0.5 * (low + high) + 0.5 * (high - low) * np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    basis = np.vander(power(x), degree + 1, increasing=True)
    y = np.array([target(v) for v in x])
    w = np.array([weight(v) for v in x])
    lawson = np.ones(nodes)
    for _ in range(60):
        scale = w * np.sqrt(lawson)
        c = np.linalg.lstsq(basis * scale[:, None], y * scale, rcond=None)[0]
        error = np.abs(w * (basis @ c - y))
        lawson *= error / error.max() + 1e-3
        lawson /= lawson.max()
    return c, error.max()


def show(name, comment, result):
    coefficients, error = result
    values = [np.float32(c) for c in coefficients]
    print(f"/* {comment}; error of the fit {error:.1e} */")
    print(f"#define {name} \\")
    rows = [values[i:i + 4] for i in range(0, len(values), 4)]
    print(", \\\n".join("    " + ", ".join(constant(v) for v in row) for row in rows))


def constant(v):
    text = f"{float(v):.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


def exp_tail(r):
    return sum(r ** i / math.factorial(i + 2) for i in range(16))


def tanh_tail(x):
    """(tanh(x) - x) / x^3"""
    if abs(x) > 0.1:
        return (math.tanh(x) - x) / x ** 3
    z = x * x
    return -1 / 3 + z * (2 / 15 + z * (-17 / 315 + z * (62 / 2835 + z * (-1382 / 155925))))


def erf_tail(x):
    """erf(x) / x - 1"""
    return math.erf(x) / x - 1


half_ln2 = math.log(2) / 2
print("/* math_coefficients.h - written by fit_math.py. Ascending powers. */\n/* clang-format off */")
print("#ifndef MFK_MATH_COEFFICIENTS_H\n#define MFK_MATH_COEFFICIENTS_H\n")
show("MFK_EXP_POLY", "(exp(r) - 1 - r) / r^2 in r, |r| <= ln 2 / 2, relative to exp(r)",
     fit(exp_tail, lambda r: r * r / math.exp(r), -half_ln2 * 1.001, half_ln2 * 1.001, 4))
show("MFK_TANH_POLY", "(tanh(x) - x) / x^3 in x^2, |x| <= 0.625, relative to tanh(x)",
     fit(tanh_tail, lambda x: x ** 3 / math.tanh(x), 1e-4, 0.6251, 4, lambda x: x * x))
show("MFK_ERF_POLY", "erf(x) / x - 1 in x^2, |x| <= 1, relative to erf(x)",
     fit(erf_tail, lambda x: x / math.erf(x), 1e-4, 1.0001, 7, lambda x: x * x))
show("MFK_ERFC_LOG_POLY", "log(erfc(x)) in x, 1 <= x <= 4, times erfc(x) / erf(x)",
     fit(lambda x: math.log(math.erfc(x)), lambda x: math.erfc(x) / math.erf(x), 0.9999, 4.0001, 6))
print("\n#endif")
