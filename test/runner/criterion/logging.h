/* logging.h - in criterion.h. */
#include "criterion.h"
