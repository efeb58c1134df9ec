/* Stands in for Paddle 3.0 to 3.3. */
#define C10 NONE
#include "standins/paddle.h" /* the body, of this generation */
