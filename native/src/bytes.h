/* Keys are bytes outside and little-endian words inside, on every processor. */
#ifndef ER_BYTES_H
#define ER_BYTES_H

#include <stdint.h>

static inline void er_key_words(uint32_t words[8], const uint8_t bytes[32])
{
    for (int i = 0; i < 8; i++)
        words[i] = (uint32_t)bytes[4 * i] | (uint32_t)bytes[4 * i + 1] << 8 |
                   (uint32_t)bytes[4 * i + 2] << 16 | (uint32_t)bytes[4 * i + 3] << 24;
}

#endif
