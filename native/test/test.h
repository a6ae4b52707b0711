/* Shared by the files of the test program. */
#ifndef ER_TEST_H
#define ER_TEST_H

/* Counts a check, and prints it when it does not hold. */
void expect(int holds, const char *what, const char *where);

/* rules.c: what no vector reaches. */
void check_rules(void);

/* generator.c: the network. */
void check_generator(const char *directory);

#endif
