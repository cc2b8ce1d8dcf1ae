// A failing call: the status that the C interface returns and the sentence that goes with it.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>

#include "../duplex_whisper.h"

namespace dw {

struct Failure : std::runtime_error {
    Failure(dw_status status, const std::string &message)
        : std::runtime_error(message), status(status) {}
    dw_status status;
};

[[noreturn]] __attribute__((format(printf, 2, 3))) inline void fail(dw_status status,
                                                                    const char *format, ...) {
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    throw Failure(status, message);
}

} // namespace dw
