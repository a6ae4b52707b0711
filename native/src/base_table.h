/* The table sampler's constants; base_table.inc is written by tools/make_base_table.py. */
#ifndef ER_BASE_TABLE_H
#define ER_BASE_TABLE_H

#include <stdint.h>

#define ER_BASE_REACH 827                          /* values -827..827 */
#define ER_BASE_ENTRIES (2 * ER_BASE_REACH + 1)
#define ER_BASE_LOWER_WORDS 7                      /* 32 + 7 * 32 = 256 bits per entry */
#define ER_BASE_GUIDE_BITS 10

extern const uint32_t er_base_upper[ER_BASE_ENTRIES];
extern const uint32_t er_base_lower[ER_BASE_ENTRIES][ER_BASE_LOWER_WORDS];
extern const uint16_t er_base_guide[1 << ER_BASE_GUIDE_BITS];

#endif
