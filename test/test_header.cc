/* test_header.c as C++17. */
#include "test_header.c"
