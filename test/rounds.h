/* rounds.h - how many random shapes a test draws: MF_TEST_ROUNDS, where that is set. */
#ifndef ROUNDS_H
#define ROUNDS_H

#include <stdint.h>
#include <stdlib.h>

static inline uint32_t test_rounds(uint32_t usual)
{
    const char *given = getenv("MF_TEST_ROUNDS");
    const unsigned long rounds = given ? strtoul(given, NULL, 10) : 0;
    return rounds ? (uint32_t)rounds : usual;
}

#endif
