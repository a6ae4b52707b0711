/* Discrete Gaussian noise of the one fixed width ER_SIGMA_INT; docs/kernel-noise.md has the proof.
 *
 * Four draws x of a table sampler of standard deviation s0 are convolved:
 *     z = (x1 + 32 x2) + 1024 (x3 + 32 x4),   s0^2 (1 + 32^2) (1 + 1024^2) = ER_SIGMA_INT^2.
 */
#ifndef ER_WIDE_H
#define ER_WIDE_H

#include "base_table.h"
#include "noise.h"

int er_base_tie(er_noise *noise, uint32_t word, int index);

/* One draw of the table sampler. A word decides unless it equals the upper 32 bits of an entry
 * (once in some millions); then er_base_tie draws the other bits. The guide starts the search at
 * the first entry that the word's upper bits allow. */
static inline int64_t er_base(er_noise *noise)
{
    const uint32_t word = er_word(noise);
    int i = er_base_guide[word >> (32 - ER_BASE_GUIDE_BITS)];
    while (er_base_upper[i] < word)
        i++;
    if (er_base_upper[i] == word)
        i = er_base_tie(noise, word, i);
    return i - ER_BASE_REACH;
}

static inline int64_t er_wide(er_noise *noise)
{
    const int64_t x1 = er_base(noise), x2 = er_base(noise);
    const int64_t x3 = er_base(noise), x4 = er_base(noise);
    return (x1 + 32 * x2) + 1024 * (x3 + 32 * x4);
}

#endif
