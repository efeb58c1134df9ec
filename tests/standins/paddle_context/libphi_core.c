/* Stands in for a Paddle in which c10 reads the context. */
#define C10 CONTEXT
#include "standins/paddle.h" /* the body, of this generation */
