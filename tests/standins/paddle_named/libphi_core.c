/* Stands in for a Paddle whose phi::Place holds a std::string, c10's state apart. */
#define PLACE_NAMED
#define C10 TLS
#include "standins/paddle.h" /* the body, of this generation */
