/* Shared by the files of the test program. */
#ifndef ER_TEST_H
#define ER_TEST_H

#include <stdint.h>

#define MOST 512 /* numbers in one array of a vector */

/* Counts a check, and prints it when it does not hold. */
void expect(int holds, const char *what, const char *where);

/* reading.c: the words of one vector, from the left; ends the program where they are not there. */
void start_line(char *text);
char *word(void);
uint64_t u64(void);
int64_t i64(void);
uint64_t hex(void);
double f64(void);
float f32(void);
void bytes(uint8_t *out, int n);
uint64_t count(void); /* at most MOST */

/* rows.c: one vector each. */
void columns_line(void);
void categorical_line(void);

/* rules.c: what no vector reaches. */
void check_rules(void);

/* generator.c: the network. */
void check_generator(const char *directory);

#endif
