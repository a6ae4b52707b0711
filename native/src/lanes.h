/* ChaCha blocks side by side: the one part of the kernel that exists once per instruction set.
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

typedef struct er_lanes {
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
} er_lanes;

/* Slowest first; each further one needs a wider instruction set. */
extern const er_lanes er_lanes_portable;
extern const er_lanes er_lanes_avx2;
extern const er_lanes er_lanes_avx512;

/* The widest that this processor can run. */
const er_lanes *er_lanes_best(void);

#endif
