#include "tiles.h"

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace duplex {
namespace {

struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Not in a function: gcc 12 thinks that only 8 bytes of it are read, and would fill in no more.
const Config kConfig;

// gcc 12 does not take the instructions of a constructor's attribute.
TARGET_AMX void configure() { _tile_loadconfig(&kConfig); }
TARGET_AMX void release() { _tile_release(); }

// CPUID, leaf 7: __builtin_cpu_supports of clang before 19 does not know them.
bool processor_has_them() {
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    const unsigned all = kBf16 | kTile | kInt8;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & all) == all;
}

}  // namespace

Tiles::Tiles() { configure(); }

Tiles::~Tiles() { release(); }

bool has_tiles() {
    static const bool has = [] {
        constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(2)
        if (std::getenv("DUPLEX_ASR_NO_TILES")) return false;  // for tests
        return processor_has_them() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    }();
    return has;
}

}  // namespace duplex
