/* Stands in for a Paddle in which c10 has a state of its own. */
#define C10 TLS
#include "standins/paddle.h" /* the body, of this generation */
