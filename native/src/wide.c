/* The rare case of the table sampler: the first 32 bits of the draw equal those of an entry. */
#include "wide.h"

#include "base_table.inc"

/* Entry i holds floor(2^256 P(X <= i - ER_BASE_REACH)), most significant word first, so the draw
 * U belongs to the first entry above it. The last entry stands for 2^256 itself. */
int er_base_tie(er_noise *noise, uint32_t word, int index)
{
    uint32_t rest[ER_BASE_LOWER_WORDS];
    for (int w = 0; w < ER_BASE_LOWER_WORDS; w++)
        rest[w] = er_word(noise);
    for (; index < ER_BASE_ENTRIES - 1 && er_base_upper[index] == word; index++) {
        const uint32_t *entry = er_base_lower[index];
        int w = 0;
        while (w < ER_BASE_LOWER_WORDS && rest[w] == entry[w])
            w++;
        if (w < ER_BASE_LOWER_WORDS && rest[w] < entry[w])
            break;
    }
    return index;
}
