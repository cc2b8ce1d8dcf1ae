// Vectors of 512 bits: what both attention and products need of them.
#pragma once

#include <immintrin.h>

#include "tiles.h"

namespace duplex {

// 2^x, off by 2.5e-7 of it: a polynomial of the fifth degree for the part after the point, least
// squares of the relative error at Chebyshev's points.
TARGET_AVX512 inline __m512 power_of_two(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(x, whole);
    __m512 sum = _mm512_set1_ps(1.3267e-3f);
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(9.67546e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(5.550743e-2f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(2.4022122e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(6.9314695e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(sum, whole);
}

}  // namespace duplex
