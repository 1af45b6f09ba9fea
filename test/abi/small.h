/* small.h - what scripts/check_abi.sh changes, to see that a change is found. */
#include <stddef.h>

typedef enum mf_count { MF_ONE = 1, MF_TWO = 2 } mf_count;

typedef struct mf_small_options {
    size_t struct_size;
    int width;
    double cost;
} mf_small_options;

typedef struct mf_small_event {
    int token;
} mf_small_event;

int mf_first(int argument);
double mf_second(const mf_small_options *options, mf_small_event event, mf_count count);
