/* Reading the known-answer vectors. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

static char *cursor;

void start_line(char *text)
{
    cursor = text;
}

char *word(void)
{
    char *w = strtok(cursor, " \n");
    cursor = NULL;
    if (w == NULL) {
        printf("FAILED: a vector ends early\n");
        exit(1);
    }
    return w;
}

uint64_t u64(void) { return strtoull(word(), NULL, 10); }
int64_t i64(void) { return strtoll(word(), NULL, 10); }
uint64_t hex(void) { return strtoull(word(), NULL, 16); }

double f64(void)
{
    const uint64_t u = hex();
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

float f32(void)
{
    const uint32_t u = (uint32_t)hex();
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

void bytes(uint8_t *out, int n)
{
    const char *w = word();
    for (int i = 0; i < n; i++) {
        unsigned byte = 0;
        if (sscanf(w + 2 * i, "%2x", &byte) != 1) {
            printf("FAILED: a vector has bad hexadecimal digits\n");
            exit(1);
        }
        out[i] = (uint8_t)byte;
    }
}

uint64_t count(void)
{
    const uint64_t n = u64();
    if (n > MOST) {
        printf("FAILED: a vector is too long\n");
        exit(1);
    }
    return n;
}
