/* math_coefficients.h - written by fit_math.py. Ascending powers. */
/* clang-format off */
#ifndef MFK_MATH_COEFFICIENTS_H
#define MFK_MATH_COEFFICIENTS_H

/* (exp(r) - 1 - r) / r^2 in r, |r| <= ln 2 / 2, relative to exp(r); error of the fit 3.1e-09 */
#define MFK_EXP_POLY \
    0.49999994f, 0.166665196f, 0.0416683927f, 0.00836878084f, \
    0.00138144649f
/* (tanh(x) - x) / x^3 in x^2, |x| <= 0.625, relative to tanh(x); error of the fit 4.4e-09 */
#define MFK_TANH_POLY \
    -0.333332807f, 0.133314401f, -0.0537395254f, 0.0206384379f, \
    -0.00570423016f
/* erf(x) / x - 1 in x^2, |x| <= 1, relative to erf(x); error of the fit 3.3e-11 */
#define MFK_ERF_POLY \
    0.128379166f, -0.376126379f, 0.112837821f, -0.0268654004f, \
    0.00522094406f, -0.000848280266f, 0.000112567352f, -9.64084393e-06f
/* log(erfc(x)) in x, 1 <= x <= 4, times erfc(x) / erf(x); error of the fit 1.1e-09 */
#define MFK_ERFC_LOG_POLY \
    -0.000341299019f, -1.1270901f, -0.63814342f, -0.103107944f, \
    0.0218386166f, -0.00294779195f, 0.000186392383f

#endif
