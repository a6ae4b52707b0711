/* A private random stream: ChaCha20 with fast key erasure.
 *
 * Each refill makes 256 words under the current key, block counters 0..15. The first eight become
 * the next key and the rest is handed out once and wiped, so a stolen state tells nothing about
 * noise already used (Bernstein, "Fast-key-erasure random-number generators", 2017).
 */
#ifndef ER_NOISE_H
#define ER_NOISE_H

#include <stdint.h>

#include "../kernel.h"
#include "lanes.h"

struct er_noise {
    const er_lanes *lanes;
    uint32_t key[8];
    uint32_t words[ER_GROUP];
    uint32_t next; /* index of the next unused word; ER_GROUP when there is none */
};

void er_noise_refill(er_noise *noise);

static inline uint32_t er_word(er_noise *noise)
{
    if (noise->next == ER_GROUP)
        er_noise_refill(noise);
    const uint32_t word = noise->words[noise->next];
    noise->words[noise->next++] = 0;
    return word;
}

static inline uint64_t er_word64(er_noise *noise)
{
    const uint64_t high = er_word(noise);
    return high << 32 | er_word(noise);
}

/* Uniform in 0..bound-1, bound >= 1: draws of as many bits as bound - 1 has, until one fits. */
static inline uint64_t er_below(er_noise *noise, uint64_t bound)
{
    uint64_t mask = bound - 1;
    mask |= mask >> 1;
    mask |= mask >> 2;
    mask |= mask >> 4;
    mask |= mask >> 8;
    mask |= mask >> 16;
    mask |= mask >> 32;
    uint64_t x;
    do
        x = (mask >> 32 ? er_word64(noise) : er_word(noise)) & mask;
    while (x >= bound);
    return x;
}

#endif
