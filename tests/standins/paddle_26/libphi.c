/* Stands in for Paddle 2.6, where all of phi is in one library. */
#define C10 NONE
#include "standins/paddle.h" /* the body, of this generation */
