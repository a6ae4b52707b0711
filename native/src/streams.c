/* Public randomness addressed by (key, stream, index). */
#include <string.h>

#include "../kernel.h"
#include "bytes.h"
#include "lanes.h"

/* The upper byte of the nonce says what the words are used for, so that uniform and normal
 * numbers of one stream have nothing in common. */
#define STREAM_LIMIT ((uint64_t)1 << 56)
#define USE_UNIFORM ((uint64_t)0 << 56)
#define USE_NORMAL ((uint64_t)1 << 56)
#define USE_EXPONENTIAL ((uint64_t)2 << 56)
/* far below the 2^64 blocks of a stream, far above any table */
#define INDEX_LIMIT ((uint64_t)1 << 60)

typedef void (*fill_groups)(float *, uint64_t, const uint32_t *, uint64_t, uint64_t);

static int fill(fill_groups groups, float *out, uint64_t n, const uint8_t *key_bytes,
                uint64_t nonce, uint64_t offset)
{
    uint32_t key[8];
    float part[ER_GROUP];
    er_key_words(key, key_bytes);
    uint64_t group = offset / ER_GROUP;
    const uint64_t skip = offset % ER_GROUP;
    if (skip != 0 && n != 0) {
        const uint64_t take = n < ER_GROUP - skip ? n : ER_GROUP - skip;
        groups(part, 1, key, nonce, group);
        memcpy(out, part + skip, take * sizeof *out);
        out += take;
        n -= take;
        group++;
    }
    const uint64_t whole = n / ER_GROUP;
    groups(out, whole, key, nonce, group);
    out += whole * ER_GROUP;
    n -= whole * ER_GROUP;
    if (n != 0) {
        groups(part, 1, key, nonce, group + whole);
        memcpy(out, part, n * sizeof *out);
    }
    return ER_OK;
}

static int check(const float *out, uint64_t n, const uint8_t *key, uint64_t key_bytes,
                 uint64_t stream, uint64_t offset)
{
    if (key == NULL || (out == NULL && n != 0))
        return ER_NULL;
    if (key_bytes != ER_KEY_BYTES || n > INDEX_LIMIT || offset > INDEX_LIMIT)
        return ER_SIZE;
    return stream < STREAM_LIMIT ? ER_OK : ER_VALUE;
}

int er_fill_uniform(float *out, uint64_t n, const uint8_t *key, uint64_t key_bytes,
                    uint64_t stream, uint64_t offset)
{
    const int code = check(out, n, key, key_bytes, stream, offset);
    if (code != ER_OK || n == 0)
        return code;
    return fill(er_lanes_best()->uniform, out, n, key, USE_UNIFORM | stream, offset);
}

int er_fill_normal(float *out, uint64_t n, const uint8_t *key, uint64_t key_bytes,
                   uint64_t stream, uint64_t offset)
{
    const int code = check(out, n, key, key_bytes, stream, offset);
    if (code != ER_OK || n == 0)
        return code;
    return fill(er_lanes_best()->normal, out, n, key, USE_NORMAL | stream, offset);
}

int er_fill_exponential(float *out, uint64_t n, const uint8_t *key, uint64_t key_bytes,
                        uint64_t stream, uint64_t offset)
{
    const int code = check(out, n, key, key_bytes, stream, offset);
    if (code != ER_OK || n == 0)
        return code;
    return fill(er_lanes_best()->exponential, out, n, key, USE_EXPONENTIAL | stream, offset);
}

/* One block, lane for lane what lanes_body.h computes; kept apart so that published vectors,
 * which are single blocks with their own counters, can be checked. */
int er_chacha_block(uint32_t *out, const uint8_t *key_bytes, uint64_t key_length,
                    uint64_t counter, uint64_t nonce, int rounds)
{
    if (out == NULL || key_bytes == NULL)
        return ER_NULL;
    if (key_length != ER_KEY_BYTES)
        return ER_SIZE;
    if (rounds < 2 || rounds > 20 || rounds % 2 != 0)
        return ER_VALUE;
    uint32_t start[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u};
    er_key_words(start + 4, key_bytes);
    start[12] = (uint32_t)counter;
    start[13] = (uint32_t)(counter >> 32);
    start[14] = (uint32_t)nonce;
    start[15] = (uint32_t)(nonce >> 32);
    uint32_t s[16];
    memcpy(s, start, sizeof s);
    static const uint8_t quarter[8][4] = {{0, 4, 8, 12},  {1, 5, 9, 13}, {2, 6, 10, 14},
                                          {3, 7, 11, 15}, {0, 5, 10, 15}, {1, 6, 11, 12},
                                          {2, 7, 8, 13},  {3, 4, 9, 14}};
    for (int round = 0; round < rounds; round++)
        for (int q = 0; q < 4; q++) {
            const uint8_t *i = quarter[round % 2 * 4 + q];
            uint32_t *a = &s[i[0]], *b = &s[i[1]], *c = &s[i[2]], *d = &s[i[3]];
            *a += *b; *d ^= *a; *d = (*d << 16) | (*d >> 16);
            *c += *d; *b ^= *c; *b = (*b << 12) | (*b >> 20);
            *a += *b; *d ^= *a; *d = (*d << 8) | (*d >> 24);
            *c += *d; *b ^= *c; *b = (*b << 7) | (*b >> 25);
        }
    for (int i = 0; i < 16; i++)
        out[i] = s[i] + start[i];
    return ER_OK;
}
