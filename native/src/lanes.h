/* The loops that exist once per instruction set: ChaCha blocks side by side, and work on rows.
 *
 * A group is 16 consecutive blocks, 256 words, kept in the order word * 16 + block, which is the
 * order in which vector registers hold them. That order is part of the streams' definition, so
 * every instruction set gives the same bytes.
 */
#ifndef ER_LANES_H
#define ER_LANES_H

#include <stdint.h>

#define ER_BLOCKS 16
#define ER_GROUP 256 /* words, and so elements, in a group */
#define ER_ROWS 256  /* rows that are handled in one go; what they need stays in the first cache */

/* Arguments of er_categorical, checked except for the numbers themselves. */
typedef struct er_choice {
    int32_t *codes;
    const float *logits, *u;
    const uint32_t *widths;
    uint64_t rows, columns;
    int64_t code_stride, logit_stride, u_stride;
    float sharpness; /* 1 / temperature */
} er_choice;

/* Codes, positions and knots of the er_decode functions; knots are checked, codes and u not. */
typedef struct er_bins {
    const int32_t *codes;
    const float *u;
    const double *knots;
    int64_t code_stride, u_stride;
    uint32_t count, per_bin;
    int rounding;    /* 0: none, 1: x * scale / scale, -1: x / scale * scale */
    double scale;
    int64_t origin, step, missing; /* integers: origin + step * rank */
} er_bins;

typedef struct er_lanes {
    const char *isa; /* as EDGE_RUNTIME_ISA names it */
    const char *name;
    /* whether this processor can run it */
    int (*usable)(void);
    /* words: [ER_GROUP], from 20 rounds with block counters 0..15 */
    void (*private_words)(uint32_t *words, const uint32_t key[8]);
    /* out: [groups * ER_GROUP], from 8 rounds */
    void (*uniform)(float *out, uint64_t groups, const uint32_t key[8], uint64_t nonce,
                    uint64_t first_group);
    void (*normal)(float *out, uint64_t groups, const uint32_t key[8], uint64_t nonce,
                   uint64_t first_group);
    void (*exponential)(float *out, uint64_t groups, const uint32_t key[8], uint64_t nonce,
                        uint64_t first_group);
    /* ER_OK or an error code */
    int (*categorical)(const er_choice *choice);
    /* n <= ER_ROWS rows from `first` on, into out[0 .. n - 1]; 0, and out as it was, when a code
     * is above count or a u outside [0, 1) */
    int (*decode_f64)(double *out, const er_bins *bins, uint64_t first, uint64_t n);
    int (*decode_f32)(float *out, const er_bins *bins, uint64_t first, uint64_t n);
    int (*decode_i64)(int64_t *out, const er_bins *bins, uint64_t first, uint64_t n);
    /* cells[i] = a[i] * kb + b[i], or a[i] when b is NULL, for n <= ER_ROWS rows; whether all codes are in range */
    int (*cells)(uint32_t *cells, const int32_t *a, int64_t a_stride, uint32_t ka,
                 const int32_t *b, int64_t b_stride, uint32_t kb, uint64_t n);
} er_lanes;

/* Slowest first; each further one needs a wider instruction set. */
extern const er_lanes er_lanes_portable;
extern const er_lanes er_lanes_avx2;
extern const er_lanes er_lanes_avx512;

/* The widest that this processor can run, or what er_isa_select chose. */
const er_lanes *er_lanes_best(void);

#endif
