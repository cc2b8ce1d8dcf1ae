// Greedy decoding by Whisper's rules: duplex_asr/asr/decoding.py, with few looks at the backend.
#pragma once

#include "engine.h"

namespace dw {

void check_request(const dw_engine &engine, const dw_request &request, const dw_result &result);

void greedy_decode(dw_engine &engine, dw_audio *audio, const dw_request &request,
                   dw_result &result);

// One row a step and sequence. A sequence that gets no blocks ends with DW_OUT_OF_BLOCKS in its
// status, the others go on.
void greedy_decode_batch(dw_engine &engine, int num, dw_audio *const *audios,
                         const dw_request *requests, dw_result *results, dw_status *statuses);

// Whether the last tokens are one short pattern over and over: Whisper's loop on noise.
bool repeats_itself(const int32_t *tokens, int num);

} // namespace dw
