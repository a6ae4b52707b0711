/* Included by lanes_*.c, once per instruction set, with ER_LANES_OBJECT (the table to define),
 * ER_LANES_ISA, ER_LANES_NAME and ER_LANES_USABLE set. Plain C99 loops over 16 lanes: the compiler makes the
 * vectors. Every float operation is written out and none may be fused (-ffp-contract=off), so the
 * results are the same bits everywhere; edge_runtime/kernel/reference.py repeats them in numpy.
 */

static inline uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

#define ER_ROTATE(x, n) (((x) << (n)) | ((x) >> (32 - (n))))
#define ER_QUARTER(a, b, c, d)                                                                    \
    a += b; d ^= a; d = ER_ROTATE(d, 16);                                                         \
    c += d; b ^= c; b = ER_ROTATE(b, 12);                                                         \
    a += b; d ^= a; d = ER_ROTATE(d, 8);                                                          \
    c += d; b ^= c; b = ER_ROTATE(b, 7);
#define ER_DOUBLE_ROUND                                                                           \
    ER_QUARTER(a0, b0, c0, d0) ER_QUARTER(a1, b1, c1, d1)                                         \
    ER_QUARTER(a2, b2, c2, d2) ER_QUARTER(a3, b3, c3, d3)                                         \
    ER_QUARTER(a0, b1, c2, d3) ER_QUARTER(a1, b2, c3, d0)                                         \
    ER_QUARTER(a2, b3, c0, d1) ER_QUARTER(a3, b0, c1, d2)
#define ER_DOUBLE_ROUNDS_4 ER_DOUBLE_ROUND ER_DOUBLE_ROUND ER_DOUBLE_ROUND ER_DOUBLE_ROUND
#define ER_DOUBLE_ROUNDS_10 ER_DOUBLE_ROUNDS_4 ER_DOUBLE_ROUNDS_4 ER_DOUBLE_ROUND ER_DOUBLE_ROUND

/* A group starts at a block counter that is a multiple of 16, so the low word never carries.
 * The rounds are pasted in, not looped over: a loop inside the lane loop stops vectorisation. */
#define ER_DEFINE_BLOCKS(NAME, DOUBLE_ROUNDS)                                                     \
    static void NAME(uint32_t *restrict words, const uint32_t *restrict key, uint64_t nonce,      \
                     uint64_t group)                                                              \
    {                                                                                             \
        const uint32_t low = (uint32_t)(group << 4), high = (uint32_t)(group >> 28);              \
        const uint32_t n0 = (uint32_t)nonce, n1 = (uint32_t)(nonce >> 32);                        \
        const uint32_t k0 = key[0], k1 = key[1], k2 = key[2], k3 = key[3];                        \
        const uint32_t k4 = key[4], k5 = key[5], k6 = key[6], k7 = key[7];                        \
        for (uint32_t lane = 0; lane < ER_BLOCKS; lane++) {                                       \
            uint32_t a0 = 0x61707865u, a1 = 0x3320646eu, a2 = 0x79622d32u, a3 = 0x6b206574u;      \
            uint32_t b0 = k0, b1 = k1, b2 = k2, b3 = k3, c0 = k4, c1 = k5, c2 = k6, c3 = k7;      \
            uint32_t d0 = low + lane, d1 = high, d2 = n0, d3 = n1;                                \
            DOUBLE_ROUNDS                                                                         \
            words[lane] = a0 + 0x61707865u;                                                       \
            words[16 + lane] = a1 + 0x3320646eu;                                                  \
            words[32 + lane] = a2 + 0x79622d32u;                                                  \
            words[48 + lane] = a3 + 0x6b206574u;                                                  \
            words[64 + lane] = b0 + k0;                                                           \
            words[80 + lane] = b1 + k1;                                                           \
            words[96 + lane] = b2 + k2;                                                           \
            words[112 + lane] = b3 + k3;                                                          \
            words[128 + lane] = c0 + k4;                                                          \
            words[144 + lane] = c1 + k5;                                                          \
            words[160 + lane] = c2 + k6;                                                          \
            words[176 + lane] = c3 + k7;                                                          \
            words[192 + lane] = d0 + low + lane;                                                  \
            words[208 + lane] = d1 + high;                                                        \
            words[224 + lane] = d2 + n0;                                                          \
            words[240 + lane] = d3 + n1;                                                          \
        }                                                                                         \
    }

ER_DEFINE_BLOCKS(chacha8, ER_DOUBLE_ROUNDS_4)
ER_DEFINE_BLOCKS(chacha20, ER_DOUBLE_ROUNDS_10)

/* -log of a uniform number in (0, 1) made of the upper 31 bits of x. Near 1 the float could not
 * hold u, so there log1p(-(1 - u)) is taken from the complement: both ends keep 31 bits. The
 * polynomial is Cephes' logf (netlib cephes/single/logf.c), log(1 + f) - f + f^2 / 2. */
static inline float minus_log_uniform(uint32_t x)
{
    const float u = ((float)(int32_t)(x >> 1) + 0.5f) * 0x1p-31f;
    const float one_minus_u = ((float)(int32_t)((~x) >> 1) + 0.5f) * 0x1p-31f;
    const uint32_t bits = bits_of(u);
    /* exponent such that u = 2^exponent (1 + f), 1 + f in [sqrt(.5), sqrt(2)); the arithmetic
     * shift of a negative number is the compiler's choice in C99, so it is spelled out */
    const uint32_t shifted = (bits - 0x3f3504f3u + 0x40000000u) >> 23;
    const int32_t exponent = (int32_t)shifted - 128;
    const float mantissa = float_of(bits - ((uint32_t)exponent << 23)) - 1.0f;
    const float f = exponent == 0 ? -one_minus_u : mantissa;
    const float e = (float)exponent;
    const float square = f * f;
    float p = 7.0376836292e-2f;
    p = p * f + -1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f + -1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f + -1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f + -2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    float y = (p * f) * square;
    y = y + e * -2.12194440e-4f;
    y = y - 0.5f * square;
    return -((f + y) + e * 0.693359375f);
}

/* Box and Muller: two normals from two words. The angle is a quadrant (2 bits) and a position in
 * [-pi/4, pi/4) (30 bits), where Cephes' short sine and cosine are accurate. */
static inline void normal_pair(uint32_t x0, uint32_t x1, float *first, float *second)
{
    const float radius = sqrtf(2.0f * minus_log_uniform(x0));
    const uint32_t position = x1 & 0x3fffffffu;
    const float angle = ((float)((int32_t)position - 0x20000000) + 0.5f) * 1.46291807926715968e-9f;
    const uint32_t quadrant = x1 >> 30;
    const float z = angle * angle;
    float s = -1.9515295891e-4f;
    s = s * z + 8.3321608736e-3f;
    s = s * z + -1.6666654611e-1f;
    s = (s * z) * angle + angle;
    float c = 2.443315711809948e-5f;
    c = c * z + -1.388731625493765e-3f;
    c = c * z + 4.166664568298827e-2f;
    c = ((c * z) * z - 0.5f * z) + 1.0f;
    /* quadrants 0..3 are (c, s), (-s, c), (-c, -s), (s, -c) */
    const uint32_t swap = 0u - (quadrant & 1u);
    const uint32_t sine = bits_of(s), cosine = bits_of(c);
    const uint32_t x = ((cosine & ~swap) | (sine & swap)) ^ (((quadrant + 1u) & 2u) << 30);
    const uint32_t y = ((sine & ~swap) | (cosine & swap)) ^ ((quadrant & 2u) << 30);
    *first = radius * float_of(x);
    *second = radius * float_of(y);
}

static void private_words(uint32_t *words, const uint32_t key[8])
{
    chacha20(words, key, 0, 0);
}

static void uniform(float *out, uint64_t groups, const uint32_t key[8], uint64_t nonce,
                    uint64_t first_group)
{
    uint32_t words[ER_GROUP];
    for (uint64_t g = 0; g < groups; g++, out += ER_GROUP) {
        chacha8(words, key, nonce, first_group + g);
        for (int i = 0; i < ER_GROUP; i++)
            out[i] = (float)(int32_t)(words[i] >> 8) * 0x1p-24f;
    }
}

static void normal(float *out, uint64_t groups, const uint32_t key[8], uint64_t nonce,
                   uint64_t first_group)
{
    uint32_t words[ER_GROUP];
    for (uint64_t g = 0; g < groups; g++, out += ER_GROUP) {
        chacha8(words, key, nonce, first_group + g);
        for (int i = 0; i < ER_GROUP / 2; i++)
            normal_pair(words[i], words[ER_GROUP / 2 + i], &out[i], &out[ER_GROUP / 2 + i]);
    }
}

static void exponential(float *out, uint64_t groups, const uint32_t key[8], uint64_t nonce,
                        uint64_t first_group)
{
    uint32_t words[ER_GROUP];
    for (uint64_t g = 0; g < groups; g++, out += ER_GROUP) {
        chacha8(words, key, nonce, first_group + g);
        for (int i = 0; i < ER_GROUP; i++)
            out[i] = minus_log_uniform(words[i]);
    }
}

#include "categorical_body.h"
#include "columns_body.h"

const er_lanes ER_LANES_OBJECT = {
    ER_LANES_ISA, ER_LANES_NAME, ER_LANES_USABLE, private_words, uniform, normal, exponential,
    categorical, decode_f64, decode_f32, decode_i64, cells,
};
