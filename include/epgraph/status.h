/* Status codes: what every epgraph call returns.
 *
 * One table holds code, name, the CUDA runtime's number for the same thing (0 where CUDA has none) and a text. A call
 * that fails also leaves one sentence with the exact cause and the values on the calling thread: epg_message(). */
#ifndef EPGRAPH_STATUS_H
#define EPGRAPH_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define EPG_API __attribute__((visibility("default")))
#else
#define EPG_API
#endif

/* X(code, name, native CUDA code, text) */
#define EPG_STATUS_TABLE(X)                                                                                        \
    X(0, OK, 0, "success")                                                                                         \
    X(1, ERR_INVALID, 1, "invalid argument")                                                                       \
    X(2, ERR_NO_MEMORY, 2, "out of memory")                                                                        \
    X(3, ERR_UNSUPPORTED, 801, "not supported")                                                                    \
    X(4, ERR_STATE, 401, "call out of order")                                                                      \
    X(5, ERR_HANDLE, 400, "not a valid handle")                                                                    \
    X(6, ERR_NOT_READY, 600, "work has not finished")                                                              \
    X(7, ERR_MISMATCH, 0, "ranks disagree")                                                                        \
    X(8, ERR_TIMEOUT, 0, "a wait passed its deadline")                                                             \
    X(9, ERR_ABORTED, 0, "the team was aborted")                                                                   \
    X(10, ERR_MASKED, 0, "this rank was masked by a peer")                                                         \
    X(11, ERR_PAIRS, 0, "pair counts differ between ranks")                                                        \
    X(12, ERR_OVERFLOW, 0, "rows did not fit")                                                                     \
    X(13, ERR_ROUTING, 0, "expert id out of range")                                                                \
    X(14, ERR_IO, 0, "input or output failed")                                                                     \
    X(15, ERR_FORMAT, 0, "malformed file")                                                                         \
    X(16, ERR_NOT_FOUND, 0, "not found")                                                                           \
    X(17, ERR_MOVED, 0, "a bound input moved")                                                                     \
    X(18, ERR_ESCAPED, 0, "work escaped the capture")                                                              \
    X(19, ERR_SYSTEM, 0, "an operating system call failed")                                                        \
    X(20, ERR_GONE, 0, "the peer is gone and its place was taken anew")                                            \
    X(900, ERR_CAPTURE_UNSUPPORTED, 900, "operation not permitted when stream is capturing")                       \
    X(901, ERR_CAPTURE_INVALIDATED, 901, "operation failed due to a previous error during capture")                \
    X(902, ERR_CAPTURE_MERGE, 902, "operation would result in a merge of separate capture sequences")              \
    X(903, ERR_CAPTURE_UNMATCHED, 903, "capture was not ended in the same stream as it began")                     \
    X(904, ERR_CAPTURE_UNJOINED, 904, "capturing stream has unjoined work")                                        \
    X(905, ERR_CAPTURE_ISOLATION, 905, "dependency created on uncaptured work in another stream")                  \
    X(906, ERR_CAPTURE_IMPLICIT, 906,                                                                              \
      "operation would make the legacy stream depend on a capturing blocking stream")                              \
    X(907, ERR_CAPTURED_EVENT, 907, "operation not permitted on an event last recorded in a capturing stream")     \
    X(908, ERR_CAPTURE_WRONG_THREAD, 908, "attempt to terminate a thread-local capture sequence from another thread")  \
    X(100000, ERR_NATIVE, 0, "an error of the device's own")

typedef enum epg_status {
#define EPG_STATUS_ENUM(code, name, native, text) EPG_##name = code,
    EPG_STATUS_TABLE(EPG_STATUS_ENUM)
#undef EPG_STATUS_ENUM
} epg_status;

/* The constant's name ("EPG_ERR_TIMEOUT") and its text; "unknown status" for a number that is no status. Never NULL.
 * May run during capture. */
EPG_API const char *epg_status_name(epg_status status);
EPG_API const char *epg_status_text(epg_status status);

/* A CUDA error without a status of its own comes as EPG_ERR_NATIVE plus its code: 100700 for error 700.
 * epg_status_name calls all of these "EPG_ERR_NATIVE". */
#define EPG_IS_NATIVE(status) ((int)(status) >= (int)EPG_ERR_NATIVE && (int)(status) < (int)EPG_ERR_NATIVE + 10000)

/* The CUDA runtime's code for this status (906 for EPG_ERR_CAPTURE_IMPLICIT), 0 where CUDA has none. */
EPG_API int epg_status_native(epg_status status);

/* The sentence written by the last call that failed on this thread, values included; "" if none did. The text stays
 * valid until the next failing call on this thread. Kept per thread because several ranks share a process. */
EPG_API const char *epg_message(void);

#ifdef __cplusplus
}
#endif
#endif
