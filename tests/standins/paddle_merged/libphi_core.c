/* Stands in for a Paddle in which c10 reads the context, and writes into its object. */
#define C10 MERGED
#include "standins/paddle.h" /* the body, of this generation */
