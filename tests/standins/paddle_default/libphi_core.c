/* Stands in for a Paddle in which c10 has a state of its own, or the default stream. */
#define C10 DEFAULT
#include "standins/paddle.h" /* the body, of this generation */
