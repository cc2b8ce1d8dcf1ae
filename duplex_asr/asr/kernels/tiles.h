// Intel's tiles (AMX): registers of 16 rows of 64 bytes, and which functions may use what.
#pragma once

#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#define TARGET_AMX \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,amx-tile,amx-bf16,amx-int8")))

namespace duplex {

// Whether the processor has tiles and the system lets this process use them. Asks once.
bool has_tiles();

// All eight tiles are whole while this lives; to be made in the thread that uses them.
class Tiles {
public:
    Tiles();
    ~Tiles();
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

}  // namespace duplex
