/* Codes as bits: code i takes bits i * width .. (i + 1) * width - 1, least significant first, of a
 * little-endian string of bytes whose last unused bits are 0. */
#include <stddef.h>

#include "../kernel.h"

#define ROWS_LIMIT ((uint64_t)1 << 40)
#define WIDTH_LIMIT 25 /* of 0 .. ER_CATEGORIES_MAX: a missing code may be one more than the last */

static int check(uint64_t bytes, uint64_t n, int64_t stride, int width)
{
    if (n > ROWS_LIMIT || stride < 0 || stride > (int64_t)ER_CATEGORIES_MAX || width < 1 ||
        width > WIDTH_LIMIT || bytes != (n * (uint64_t)width + 7) / 8)
        return ER_SIZE;
    return ER_OK;
}

int er_pack_bits(uint8_t *out, uint64_t out_bytes, const int32_t *codes, int64_t stride,
                 uint64_t n, int width)
{
    if (n != 0 && (out == NULL || codes == NULL))
        return ER_NULL;
    const int error = check(out_bytes, n, stride, width);
    if (error != ER_OK)
        return error;
    uint64_t waiting = 0;
    uint32_t seen = 0;
    int bits = 0;
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t code = (uint32_t)codes[(int64_t)i * stride];
        seen |= code;
        waiting |= (uint64_t)code << bits;
        bits += width;
        if (bits >= 32) { /* at most 31 + 25 bits wait */
            for (int byte = 0; byte < 4; byte++)
                *out++ = (uint8_t)(waiting >> 8 * byte);
            waiting >>= 32;
            bits -= 32;
        }
    }
    for (; bits > 0; bits -= 8, waiting >>= 8)
        *out++ = (uint8_t)waiting;
    return seen >> width == 0 ? ER_OK : ER_RANGE;
}

int er_unpack_bits(int32_t *codes, int64_t stride, uint64_t n, int width, const uint8_t *bytes,
                   uint64_t byte_count)
{
    if (n != 0 && (codes == NULL || bytes == NULL))
        return ER_NULL;
    const int error = check(byte_count, n, stride, width);
    if (error != ER_OK || n == 0)
        return error;
    const uint32_t mask = ((uint32_t)1 << width) - 1;
    /* bits behind the last code would be lost in silence */
    const int used = (int)(n * (uint64_t)width % 8);
    if (used != 0 && bytes[byte_count - 1] >> used != 0)
        return ER_VALUE;
    const uint8_t *end = bytes + byte_count;
    uint64_t waiting = 0;
    int bits = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (bits < width) {
            if (end - bytes >= 4) {
                waiting |= (uint64_t)((uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 |
                                      (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24)
                           << bits;
                bytes += 4;
                bits += 32;
            } else {
                for (; bits < width; bits += 8)
                    waiting |= (uint64_t)*bytes++ << bits;
            }
        }
        codes[(int64_t)i * stride] = (int32_t)((uint32_t)waiting & mask);
        waiting >>= width;
        bits -= width;
    }
    return ER_OK;
}
