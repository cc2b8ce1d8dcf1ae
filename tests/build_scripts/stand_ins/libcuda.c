/* Stands in for NVIDIA's driver library: an Orin with CUDA 12.6 that has STAND_IN_FREE_MIB free and
 * refuses larger pieces. Anything that the driver would refuse gets CUDA's error code, too. */
#include <stddef.h>
#include <stdlib.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201 };

static int is_initialized, context;
static size_t allocated;

static size_t free_bytes(void) {
    const char *mib = getenv("STAND_IN_FREE_MIB");
    return (size_t)(mib ? atol(mib) : 4096) << 20;
}

int cuInit(unsigned flags) {
    is_initialized = 1;
    return flags ? INVALID_VALUE : SUCCESS;
}

int cuDriverGetVersion(int *version) {
    *version = 12060;
    return SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (!is_initialized) return NOT_INITIALIZED;
    if (device != 0 || (attribute != 75 && attribute != 76)) return INVALID_VALUE;
    *value = attribute == 75 ? 8 : 7;
    return SUCCESS;
}

int cuCtxCreate_v2(void **made, unsigned flags, int device) {
    if (!is_initialized) return NOT_INITIALIZED;
    if (flags || device) return INVALID_VALUE;
    *made = &context;
    context = 1;
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    if (!context) return INVALID_CONTEXT;
    *free = free_bytes();
    *total = (size_t)7619 << 20;
    return SUCCESS;
}

int cuMemAlloc_v2(unsigned long long *pointer, size_t size) {
    if (!context) return INVALID_CONTEXT;
    if (size == 0) return INVALID_VALUE;
    if (size > free_bytes()) return OUT_OF_MEMORY;
    allocated = size;
    *pointer = 0x700000000ull; /* needs more than 32 bits, as the real ones do */
    return SUCCESS;
}

int cuMemsetD8_v2(unsigned long long pointer, unsigned char value, size_t size) {
    if (pointer != 0x700000000ull || value != 0 || size != allocated) return INVALID_VALUE;
    return SUCCESS;
}

int cuCtxSynchronize(void) { return context ? SUCCESS : INVALID_CONTEXT; }
