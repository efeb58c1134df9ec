/* Stands in for a Paddle in which c10 has a state of its own before the context. */
#define C10 FIRST
#include "standins/paddle.h" /* the body, of this generation */
