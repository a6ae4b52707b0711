/* Exact discrete Gaussian and Laplace variables of any rational width, in integers only.
 *
 * Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy" (2020): algorithm 1
 * (Bernoulli of exp(-x)), 2 (discrete Laplace), 3 (discrete Gaussian by rejection from Laplace).
 * Its time depends on what it draws; docs/kernel-noise.md says what that means.
 */
#include <stddef.h>
#include <string.h>

#include "noise.h"

#define NUMERATOR_LIMIT ((uint64_t)1 << 44)
#define DENOMINATOR_LIMIT ((uint64_t)1 << 20)
#define SIGMA_LIMIT ((uint64_t)1 << 24)
#define COUNT_LIMIT ((uint64_t)1 << 40)
/* Both loops below end by chance; these bounds are reached with probability under 2^-369 and
 * 1 / 65535!, and keep every number inside its words. */
#define LAPLACE_LIMIT 256
#define FACTOR_LIMIT 65535u

/* ---- natural numbers of 256 bits, least significant word first ----
 * The largest number met is |y t d^2 - n^2|^2 < 2^192, or 2 n^2 t^2 d^2 times a factor < 2^193. */
#define WORDS 8
typedef struct natural {
    uint32_t w[WORDS];
} natural;

static natural from_u64(uint64_t x)
{
    natural r = {{(uint32_t)x, (uint32_t)(x >> 32)}};
    return r;
}

static natural multiply(const natural *a, const natural *b)
{
    natural r = {{0}};
    for (int i = 0; i < WORDS; i++) {
        if (a->w[i] == 0)
            continue;
        uint64_t carry = 0;
        for (int j = 0; i + j < WORDS; j++) {
            carry += (uint64_t)a->w[i] * b->w[j] + r.w[i + j];
            r.w[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
    }
    return r;
}

static int compare(const natural *a, const natural *b)
{
    for (int i = WORDS - 1; i >= 0; i--)
        if (a->w[i] != b->w[i])
            return a->w[i] < b->w[i] ? -1 : 1;
    return 0;
}

/* a - b for a >= b */
static natural subtract(const natural *a, const natural *b)
{
    natural r;
    uint64_t borrow = 0;
    for (int i = 0; i < WORDS; i++) {
        const uint64_t d = (uint64_t)a->w[i] - b->w[i] - borrow;
        r.w[i] = (uint32_t)d;
        borrow = d >> 63;
    }
    return r;
}

static natural twice(const natural *a)
{
    natural r;
    uint32_t carry = 0;
    for (int i = 0; i < WORDS; i++) {
        r.w[i] = a->w[i] << 1 | carry;
        carry = a->w[i] >> 31;
    }
    return r;
}

static int bit_length(const natural *a)
{
    for (int i = WORDS - 1; i >= 0; i--)
        if (a->w[i] != 0) {
            int bits = 0;
            for (uint32_t x = a->w[i]; x != 0; x >>= 1)
                bits++;
            return 32 * i + bits;
        }
    return 0;
}

/* floor(a / 2^shift), which must fit 32 bits */
static uint32_t shifted(const natural *a, int shift)
{
    const int word = shift / 32, bits = shift % 32;
    const uint64_t high = word + 1 < WORDS ? a->w[word + 1] : 0;
    return (uint32_t)((high << 32 | a->w[word]) >> bits);
}

/* ---- Bernoulli variables of rational parameters ---- */

/* P(1) = a / b exactly, 0 <= a <= b, b > 0: the binary digits of a / b are compared with random
 * ones. 32 random digits and the leading 32 bits of a and b decide all but about 4 in 2^32. */
static int bernoulli(er_noise *noise, const natural *a, const natural *b)
{
    const uint32_t u = er_word(noise);
    const int shift = bit_length(b) > 32 ? bit_length(b) - 32 : 0;
    const uint64_t top = shifted(a, shift), bottom = shifted(b, shift);
    /* a / b lies between top / (bottom + 1) and (top + 1) / bottom, u's digits in [u, u + 1] */
    if ((uint64_t)u + 1 <= (top << 32) / (bottom + 1))
        return 1;
    if (top != 0xffffffffu && u >= ((top + 1) << 32) / bottom + 1)
        return 0;
    natural rest = *a;
    uint32_t digits = u;
    for (int left = 32;; left--) {
        if (left == 0) {
            digits = er_word(noise);
            left = 32;
        }
        rest = twice(&rest);
        const int digit = compare(&rest, b) >= 0;
        if (digit)
            rest = subtract(&rest, b);
        if (digit != (int)(digits >> 31))
            return digit;
        digits <<= 1;
    }
}

/* P(1) = exp(-a / b) for 0 <= a <= b: algorithm 1, whose first loop leaves an odd count with
 * probability sum of (-a / b)^k / k!. */
static int bernoulli_exp_wide(er_noise *noise, const natural *a, const natural *b)
{
    uint32_t k = 1;
    for (; k < FACTOR_LIMIT; k++) {
        const natural factor = from_u64(k);
        const natural bottom = multiply(b, &factor);
        if (!bernoulli(noise, a, &bottom))
            break;
    }
    return k % 2;
}

/* The same for b below 2^44: b k fits a word pair, and a uniform integer decides. */
static int bernoulli_exp_small(er_noise *noise, uint64_t a, uint64_t b)
{
    uint32_t k = 1;
    for (; k < FACTOR_LIMIT; k++)
        if (er_below(noise, b * k) >= a)
            break;
    return k % 2;
}

/* ---- the sampler ---- */

typedef struct gaussian {
    uint64_t t;          /* scale of the discrete Laplace: floor(sigma) + 1 */
    natural t_d2, n2;    /* t d^2 and n^2, sigma = n / d */
    natural bottom;      /* 2 n^2 t^2 d^2 */
} gaussian;

/* |y| and sign of a discrete Laplace of scale t / s: algorithm 2 */
static uint64_t laplace(er_noise *noise, uint64_t t, uint64_t s, int *negative)
{
    for (;;) {
        const uint64_t u = er_below(noise, t);
        if (!bernoulli_exp_small(noise, u, t))
            continue;
        uint64_t v = 0;
        while (v < LAPLACE_LIMIT && bernoulli_exp_small(noise, 1, 1))
            v++;
        const uint64_t y = (u + t * v) / s;
        *negative = (int)(er_word(noise) & 1);
        if (v < LAPLACE_LIMIT && !(*negative && y == 0))
            return y;
    }
}

static int64_t draw(er_noise *noise, const gaussian *g)
{
    for (;;) {
        int negative;
        const uint64_t size = laplace(noise, g->t, 1, &negative);
        /* accept with exp(-(|y| - sigma^2 / t)^2 / (2 sigma^2)) = exp(-top / bottom) */
        const natural y = from_u64(size);
        const natural y_t_d2 = multiply(&y, &g->t_d2);
        const natural difference = compare(&y_t_d2, &g->n2) >= 0 ? subtract(&y_t_d2, &g->n2)
                                                                 : subtract(&g->n2, &y_t_d2);
        natural top = multiply(&difference, &difference);
        int accepted = 1;
        while (accepted && compare(&top, &g->bottom) > 0) {
            top = subtract(&top, &g->bottom);
            accepted = bernoulli_exp_small(noise, 1, 1);
        }
        if (accepted && bernoulli_exp_wide(noise, &top, &g->bottom))
            return negative ? -(int64_t)size : (int64_t)size;
    }
}

int er_noise_discrete_gaussian(er_noise *noise, int64_t *out, uint64_t n, uint64_t numerator,
                               uint64_t denominator)
{
    if (noise == NULL || (out == NULL && n != 0))
        return ER_NULL;
    if (n > COUNT_LIMIT)
        return ER_SIZE;
    if (numerator == 0 || numerator >= NUMERATOR_LIMIT || denominator == 0 ||
        denominator > DENOMINATOR_LIMIT || numerator > SIGMA_LIMIT * denominator)
        return ER_VALUE;
    gaussian g;
    g.t = numerator / denominator + 1;
    const natural d2 = from_u64(denominator * denominator), t = from_u64(g.t),
                  nn = from_u64(numerator), two = from_u64(2);
    g.t_d2 = multiply(&t, &d2);
    g.n2 = multiply(&nn, &nn);
    const natural t2_d2 = multiply(&t, &g.t_d2), n2_2 = multiply(&two, &g.n2);
    g.bottom = multiply(&n2_2, &t2_d2);
    for (uint64_t i = 0; i < n; i++)
        out[i] = draw(noise, &g);
    return ER_OK;
}

int er_noise_discrete_laplace(er_noise *noise, int64_t *out, uint64_t n, uint64_t numerator,
                              uint64_t denominator)
{
    if (noise == NULL || (out == NULL && n != 0))
        return ER_NULL;
    if (n > COUNT_LIMIT)
        return ER_SIZE;
    if (numerator == 0 || numerator >= NUMERATOR_LIMIT || denominator == 0 ||
        denominator > DENOMINATOR_LIMIT || numerator > SIGMA_LIMIT * denominator)
        return ER_VALUE;
    for (uint64_t i = 0; i < n; i++) {
        int negative;
        const int64_t size = (int64_t)laplace(noise, numerator, denominator, &negative);
        out[i] = negative ? -size : size;
    }
    return ER_OK;
}
