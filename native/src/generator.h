/* The generator itself: int8 weights as the block loops read them, and one set of loops per
 * instruction set. docs/engines.md describes the form; generator_body.h holds the loops.
 */
#ifndef ER_GENERATOR_H
#define ER_GENERATOR_H

#include <stdint.h>

#define ER_NET_ROWS 64        /* rows of one block: the lanes */
#define ER_UNITS 4        /* activations in one 32-bit word, and outputs computed together */
#define ER_WIDE 32        /* first-layer sums are added and read in runs of at most so many */

struct er_generator;
struct er_scratch;

typedef struct er_network {
    const char *name;
    /* whether this processor can run it */
    int (*usable)(void);
    /* rows of codes from noise, both [columns][ER_NET_ROWS] */
    void (*block)(const struct er_generator *g, struct er_scratch *s);
} er_network;

struct er_generator {
    const er_network *network;
    uint64_t columns, hidden;
    uint64_t stride;      /* of a row of w1: hidden, padded */
    uint64_t words;       /* words of a row of activations, padded to pairs */
    uint64_t widest;      /* largest cardinality, padded to ER_UNITS */
    int short_sums;       /* first-layer sums fit 16 bits */
    int32_t *cardinality; /* [columns] */
    uint64_t *offset;     /* [columns]: first logit */
    uint64_t *seen;       /* [columns]: units that the logits of a column see */
    uint64_t *block3;     /* [columns]: first word of a column's part of w3 */
    uint64_t *channel3;   /* [columns]: first entry of a column's part of b3 and scale3 */
    int8_t *w1;           /* [V][stride] */
    float *rescale1, *shift1, *rescale2, *skip2; /* [stride] */
    int32_t *b2;          /* [stride] */
    uint32_t *w2;         /* [words][words][ER_UNITS]: output word, input word, output in it */
    uint32_t *w3;         /* per column [outputs / ER_UNITS][input words][ER_UNITS] */
    int32_t *b3;          /* per column, padded to ER_UNITS */
    float *scale3;        /* the same, times log2(e): the exponential has base 2 */
};

/* What one block works in; nothing in it outlives a block but the codes. */
struct er_scratch {
    float *noise;         /* [columns][ER_NET_ROWS] */
    int32_t *codes;       /* [columns][ER_NET_ROWS] */
    void *sums;           /* [ER_NET_ROWS][stride] of int16 or int32 */
    uint32_t *h1, *h2;    /* [words + padding][ER_NET_ROWS], four activations in a word */
    float *weight;        /* [widest][ER_NET_ROWS]: logits, then cumulative weights */
};

/* Fastest last; absent ones are NULL. */
#define ER_NETWORKS 8
extern const er_network *const er_networks[ER_NETWORKS];
extern const er_network er_network_portable, er_network_sse2, er_network_avx2,
    er_network_avxvnni, er_network_avx512, er_network_avx512vnni, er_network_neon,
    er_network_dotprod;

#endif
