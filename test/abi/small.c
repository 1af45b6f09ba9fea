/* small.c - see small.h. */
#include "small.h"

int mf_first(int argument)
{
    return (int)argument;
}
double mf_second(const mf_small_options *options, mf_small_event event, mf_count count)
{
    return options->cost * event.token * (double)count;
}
