/* The whole interface of the kernel: what Python sees, and what any other caller may link against.
 *
 * cffi reads the lines between the two markers, so only plain C declarations may stand there.
 * Every function checks its sizes and returns ER_OK or one of the negative codes below; on an
 * error nothing that the caller owns has been changed, unless said. Nothing here exits or prints, and
 * the only global state is what er_isa_select sets. Buffers must not overlap. Strides count elements, not bytes.
 */
#ifndef EDGE_RUNTIME_KERNEL_H
#define EDGE_RUNTIME_KERNEL_H

#include <stdint.h>

/* cffi: begin */

#define ER_OK 0
#define ER_NULL -1      /* a pointer is missing */
#define ER_SIZE -2      /* a count, size or stride is zero, negative or too large */
#define ER_RANGE -3     /* a code lies outside its column */
#define ER_VALUE -4     /* a number is not finite or outside what the function is defined for */
#define ER_ORDER -5     /* the knots of a bin decrease */
#define ER_MEMORY -6    /* no memory */
#define ER_ISA -7       /* no such instruction set here */

/* ER_KEY_BYTES: length of every key and seed. ER_SIGMA_INT: standard deviation, in grid steps, of
 * the noise that er_noise_training adds. ER_CATEGORIES_MAX: largest cardinality of a column. */
#define ER_KEY_BYTES 32
#define ER_SIGMA_INT 2097152
#define ER_CATEGORIES_MAX 16777216

/* ---- instruction set: the same bits from each, only the speed differs ----
 * er_isa is the one in use: "x86-64", "x86-64-v3", "x86-64-v4", "aarch64", "arm" or "other";
 * er_lanes_name calls it "portable", "avx2" or "avx512". er_isa_name counts through those that
 * this processor can run, slowest first, and ends with NULL. er_isa_select forces one for the whole
 * process (NULL: the fastest again), ER_VALUE if this processor cannot run it; call it before other
 * threads use the kernel. */
const char *er_isa(void);
const char *er_lanes_name(void);
const char *er_isa_name(uint64_t index);
int er_isa_select(const char *isa);

/* ---- public randomness: ChaCha8, addressed by (key, stream, index); stream < 2^56 ----
 * out[k] is element offset + k of the stream, however a caller splits the work. */
int er_fill_uniform(float *out, uint64_t n, const uint8_t *key, uint64_t key_bytes,
                    uint64_t stream, uint64_t offset);
int er_fill_normal(float *out, uint64_t n, const uint8_t *key, uint64_t key_bytes,
                   uint64_t stream, uint64_t offset);
int er_fill_exponential(float *out, uint64_t n, const uint8_t *key, uint64_t key_bytes,
                        uint64_t stream, uint64_t offset);

/* ---- logits to codes ---- inverse CDF of the softmax of each block of widths[c] logits.
 * logits [rows][>= sum of widths], u and codes [rows][>= columns]; strides are between rows. u in
 * [0, 1), or 1 + code to force a code. -infinity rules a category out. codes is worthless after
 * ER_VALUE (NaN or +infinity, a block of only -infinity, a negative u) and ER_RANGE (a forced code
 * outside its column). temperature in 2^-20 .. 2^20. */
int er_categorical(int32_t *codes, int64_t code_stride, uint64_t rows, const float *logits,
                   int64_t logit_stride, const float *u, int64_t u_stride,
                   const uint32_t *widths, uint64_t columns, float temperature);

/* ---- codes to values ----
 * knots is [bins][knots_per_bin], each bin nondecreasing and finite. code == bins is a missing
 * value: NaN, or 0 for integers. decimals in -15..15, or ER_NO_ROUNDING. After a bad code (ER_RANGE)
 * or u (ER_VALUE) out is partly written. */
#define ER_NO_ROUNDING 127
int er_decode_f64(double *out, uint64_t n, const int32_t *codes, int64_t code_stride,
                  const float *u, int64_t u_stride, const double *knots, uint64_t bins,
                  uint64_t knots_per_bin, int decimals);
int er_decode_f32(float *out, uint64_t n, const int32_t *codes, int64_t code_stride,
                  const float *u, int64_t u_stride, const double *knots, uint64_t bins,
                  uint64_t knots_per_bin, int decimals);
int er_decode_i64(int64_t *out, uint64_t n, const int32_t *codes, int64_t code_stride,
                  const float *u, int64_t u_stride, const double *knots, uint64_t bins,
                  uint64_t knots_per_bin);
/* The same, then origin + step * integer, and `missing` for a missing value: timestamps. step above
 * 0; ER_VALUE if a bin reaches beyond 64 bits. */
int er_decode_grid(int64_t *out, uint64_t n, const int32_t *codes, int64_t code_stride,
                   const float *u, int64_t u_stride, const double *knots, uint64_t bins,
                   uint64_t knots_per_bin, int64_t origin, int64_t step, int64_t missing);

/* ---- codes as bits ---- width in 1..25; bytes must be ceil(n width / 8). Least significant bit
 * first. out is worthless after ER_RANGE; unpacking gives ER_VALUE for bits behind the last code.
 */
int er_pack_bits(uint8_t *out, uint64_t out_bytes, const int32_t *codes, int64_t stride,
                 uint64_t n, int width);
int er_unpack_bits(int32_t *codes, int64_t stride, uint64_t n, int width, const uint8_t *bytes,
                   uint64_t byte_count);

/* ---- counts ---- counts is [cardinality], or [ka][kb]; it is overwritten, and worthless after
 * ER_RANGE. */
int er_count_codes(int64_t *counts, uint64_t cardinality, const int32_t *codes, uint64_t n,
                   int64_t stride);
int er_count_pairs(int64_t *counts, uint64_t ka, uint64_t kb, const int32_t *a, int64_t a_stride,
                   const int32_t *b, int64_t b_stride, uint64_t n);

/* ---- private randomness: ChaCha20 with fast key erasure ---- not safe for two threads at once. */
typedef struct er_noise er_noise;
er_noise *er_noise_new(const uint8_t *seed, uint64_t seed_bytes); /* NULL: bad size or no memory */
void er_noise_free(er_noise *noise);
int er_noise_uniform_u64(er_noise *noise, uint64_t *out, uint64_t n);
/* P(1) = floor(p 2^64) / 2^64; p in 0..1. */
int er_noise_bernoulli(er_noise *noise, uint8_t *out, uint64_t n, double p);
/* Exact, sigma = numerator / denominator; numerator < 2^44, denominator <= 2^20,
 * sigma <= 2^24. */
int er_noise_discrete_gaussian(er_noise *noise, int64_t *out, uint64_t n, uint64_t numerator,
                               uint64_t denominator);
/* Exact, P(x) proportional to exp(-|x| denominator / numerator); the same limits. */
int er_noise_discrete_laplace(er_noise *noise, int64_t *out, uint64_t n, uint64_t numerator,
                              uint64_t denominator);
/* Discrete Gaussian of standard deviation ER_SIGMA_INT, and the table sampler under it. */
int er_noise_wide(er_noise *noise, int64_t *out, uint64_t n);
int er_noise_base(er_noise *noise, int64_t *out, uint64_t n);
/* grad <- (round(grad / g) + wide) g with g = noise_multiplier clip_norm / ER_SIGMA_INT where
 * mask is set (everywhere when mask is NULL), 0 elsewhere. */
int er_noise_training(er_noise *noise, float *grad, uint64_t n, const uint8_t *mask,
                      double clip_norm, double noise_multiplier);

/* ---- the generator: int8 network, noise to codes ---- docs/bundle.md defines every tensor; masked
 * weights are ignored. The same codes on every instruction set. Any number of threads may use
 * one generator at once. */
typedef struct er_generator er_generator;
typedef struct er_tensors {
    uint64_t logits;                             /* V: the sum of the cardinalities */
    const int8_t *w1, *w2, *w3;                  /* [V][H], [H][H], [H][V] */
    const int32_t *b2, *b3;                      /* [H], [V]; at most 2^24 in size */
    const float *rescale1, *shift1;              /* [H]; all floats finite, below 2^60 in size */
    const float *rescale2, *skip2, *scale3;      /* [H], [H], [V]; not negative */
} er_tensors;
/* Names of the instruction sets that this processor can run, fastest first, NULL after the last. */
const char *er_generator_isa(uint64_t index);
/* isa NULL: the fastest. Everything is copied. columns and hidden <= 1024, V <= 65536. */
int er_generator_new(er_generator **out, const char *isa, const int32_t *cardinalities,
                     uint64_t columns, uint64_t hidden, const er_tensors *tensors);
void er_generator_free(er_generator *g);
/* codes and noise are [rows][columns]; noise in [0, 1), or 1 + code to force a code: ER_VALUE
 * otherwise. */
int er_generator_codes(const er_generator *g, int32_t *codes, const float *noise, uint64_t rows);

/* Rows drawn from the public stream: row r has the uniform numbers from (offset + r) * columns on
 * of `stream`, and column c is decoded with number offset + r of stream decode_stream + c. */
typedef struct er_draw {
    uint64_t rows, offset;          /* at most 2^40 each */
    const uint8_t *key;
    uint64_t key_bytes, stream, decode_stream;
    const int32_t *forced;          /* [forced_columns][rows]: codes of the leading columns */
    uint64_t forced_columns;
} er_draw;
#define ER_OUT_NOTHING 0    /* the column is not wanted */
#define ER_OUT_CODES 1      /* int32: the codes themselves */
#define ER_OUT_BYTES 2      /* int8: table[code] */
#define ER_OUT_POINTS 3     /* eight bytes: table[code * slots + uniform slot]; a power of two */
#define ER_OUT_LINEAR_F64 4 /* double: er_decode_f64 without rounding; table is knots, slots many */
#define ER_OUT_LINEAR_I64 5 /* int64: er_decode_i64 */
typedef struct er_output {
    int kind;
    void *out;                      /* [rows] */
    uint8_t *missing;               /* [rows] or NULL: 1 where the code is the column's last */
    const void *table;              /* [bins][slots] */
    uint64_t bins, slots;
} er_output;
/* Codes [rows][columns], or one output per column, or both (NULL: not wanted). What is written is
 * worthless after an error. */
int er_generator_rows(const er_generator *g, const er_draw *draw, int32_t *codes,
                      const er_output *outputs, uint64_t output_count);

/* ---- for known-answer tests ---- one ChaCha block: rounds even, 2..20. */
int er_chacha_block(uint32_t *out, const uint8_t *key, uint64_t key_bytes, uint64_t counter,
                    uint64_t nonce, int rounds);

/* cffi: end */

#endif
