/* The native Whisper engine as a C library: mel in, tokens out.
 *
 * Two libraries implement this header: the CUDA one, and a plain C++ one for the CPU, which is the
 * reference that the kernels are tested against. Nothing here reads files: the caller hands over
 * tensors (they are copied), named and shaped as in OpenAI's checkpoints.
 *
 * Calls on one engine come from one thread at a time. Every function that can fail returns a
 * dw_status; dw_last_error() then says in one sentence what is wrong. After DW_CUDA_ERROR and
 * DW_TIMED_OUT the CUDA context is lost: nothing but the end of the process helps.
 */
#ifndef DUPLEX_WHISPER_H
#define DUPLEX_WHISPER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DW_ABI_VERSION 3

#if defined(__GNUC__)
#define DW_API __attribute__((visibility("default")))
#else
#define DW_API
#endif

typedef enum {
    DW_OK = 0,
    DW_BAD_ARGUMENT = 1,           /* the call is wrong; nothing was done */
    DW_UNSUPPORTED_DIMENSIONS = 2, /* the message names the dimension */
    DW_BAD_TENSOR = 3,             /* unknown, missing, given twice or of another type or shape */
    DW_OUT_OF_BLOCKS = 4,          /* the KV pool or the places for audio are all taken; this
                                      request is refused, all others go on */
    DW_OUT_OF_MEMORY = 5,          /* GPU memory; only while an engine is made */
    DW_WRONG_ARCHITECTURE = 6,     /* no GPU, or one the library has no code for */
    DW_CUDA_ERROR = 7,             /* fatal: the context is lost */
    DW_TIMED_OUT = 8               /* fatal: a kernel did not end within timeout_ms */
} dw_status;

/* How a matrix is stored. Everything but the decoder's matrices is always DW_FP16.
 *
 * DW_INT8: uint8 [out, in] and "NAME.scale" float32 [out]; weight = (byte - 128) * scale[row].
 * DW_INT4: uint8 [out, in / 2] and "NAME.scale" float16 [out, in / 64];
 *          weight = (nibble - 8) * scale[row][column / 64]. Each 4 bytes are a little-endian word
 *          of the 8 columns c .. c+7: column c + 2j has bits 4j .. 4j+3, column c + 2j + 1 has
 *          bits 16 + 4j .. 16 + 4j + 3, j = 0 .. 3 (so that a mask and a shift make two halves). */
typedef enum { DW_FP16 = 0, DW_FP32 = 1, DW_INT8 = 2, DW_INT4 = 3 } dw_type;

/* Sizes of the model, named as in OpenAI's checkpoints. */
typedef struct {
    int32_t n_mels;        /* 80 or 128 */
    int32_t n_audio_ctx;   /* positions after the encoder; mel frames are twice as many; <= 1500 */
    int32_t n_audio_state; /* equals n_text_state; a multiple of 64, <= 1280 */
    int32_t n_audio_head;  /* n_audio_state / 64 */
    int32_t n_audio_layer;
    int32_t n_vocab;
    int32_t n_text_ctx; /* <= 448 */
    int32_t n_text_state;
    int32_t n_text_head;
    int32_t n_text_layer;
} dw_dimensions;

typedef struct {
    int32_t struct_bytes; /* sizeof(dw_options), so that fields can be added */
    int32_t device;       /* CUDA device number; all engines of a process have the same */
    int32_t layer_type;   /* dw_type of the matrices of the decoder's layers, except
                             cross_attn.key and cross_attn.value, which belong to the encoder's
                             side and are always DW_FP16 */
    int32_t embedding_type; /* dw_type of decoder.token_embedding.weight: embedding and output
                               projection, stored once; as layer_type, or DW_INT8 with DW_INT4 */
    int32_t block_tokens;   /* positions in one block of the KV pool: 8, 16, 32 or 64 */
    int32_t pool_tokens;    /* positions in the whole pool, for all sequences together */
    int32_t max_audios;     /* encoded utterances held at once */
    int32_t max_batch;      /* sequences that dw_decode_batch takes at once, <= 256 */
    int32_t encode_batch;   /* utterances that the encoder takes at once, <= 32; memory grows
                               with it; dw_encode_batch takes any number, in groups */
    int32_t chunk_tokens;   /* at most so many tokens between two looks at should_stop, 1 .. 32;
                               fewer where they take longer than about 8 ms */
    int32_t timeout_ms;     /* the longest wait for the GPU before DW_TIMED_OUT */
    int32_t eot;            /* end token */
    int32_t no_speech;      /* token whose probability after the start token is reported, or -1 */
    int32_t num_suppress;   /* tokens never chosen */
    const int32_t *suppress;
    int32_t num_suppress_first; /* tokens not chosen as the first, in addition */
    const int32_t *suppress_first;
    int32_t only_portable; /* 1: nothing that an Orin's GPU does not have, for tests and comparisons */
    int32_t multiprocessors; /* 0: all. Else, with only_portable, dw_decode's single tokens are made by at
                                most so many, each with an Orin's shared memory: how a small GPU would do */
} dw_options;

typedef struct dw_engine dw_engine;
typedef struct dw_audio dw_audio;       /* cross-attention keys and values of one utterance */
typedef struct dw_sequence dw_sequence; /* self-attention keys and values of some tokens */

/* ---- library ---------------------------------------------------------------------------------- */

DW_API int32_t dw_abi_version(void);

/* JSON: {"abi": 3, "kind": "cuda" | "reference", "architectures": ["sm_87"], "cuda": "13.0"} */
DW_API const char *dw_build_info(void);

/* What went wrong in this thread's last failing call; "" if nothing ever did. For CUDA errors it
 * names the call, the file and the line. Valid until the thread's next failing call. */
DW_API const char *dw_last_error(void);

/* ---- engine ----------------------------------------------------------------------------------- */

/* Check dimensions, options and device, and allocate all memory that will ever be used. */
DW_API dw_status dw_create(const dw_dimensions *dimensions, const dw_options *options,
                           dw_engine **engine);

/* Copy one tensor. `type` is the type of the elements: DW_FP16, or DW_FP32 for any tensor that
 * will be DW_FP16, and for int8 scales; DW_INT8 also for the packed bytes of int4, whose shape is
 * [out, in / 2]. `data` need not be aligned and may go after the call. */
DW_API dw_status dw_add_tensor(dw_engine *engine, const char *name, dw_type type, int32_t ndim,
                               const int64_t *shape, const void *data, int64_t num_bytes);

/* Number of tensors that dw_finish wants, and the name of each, in order; NULL beyond the end. */
DW_API int32_t dw_num_tensors(const dw_engine *engine);
DW_API const char *dw_tensor_name(const dw_engine *engine, int32_t index);

/* Refuse with the names of missing tensors, or make the engine ready. */
DW_API dw_status dw_finish(dw_engine *engine);

/* NULL is allowed. Audio and sequences must have been released before. */
DW_API void dw_destroy(dw_engine *engine);

typedef struct {
    int64_t weight_bytes;
    int64_t audio_bytes; /* places for encoded utterances: max_audios of them */
    int64_t pool_bytes;
    int64_t scratch_bytes;
    int64_t device_free_bytes; /* as cudaMemGetInfo says; 0 in the reference */
    int64_t device_total_bytes;
    int32_t blocks_total, blocks_free;
    int32_t audios_total, audios_free;
} dw_memory_info;

DW_API dw_status dw_memory(const dw_engine *engine, dw_memory_info *info);

/* ---- encoder ---------------------------------------------------------------------------------- */

/* mel: float32 [n_mels, 2 * n_audio_ctx]. DW_OUT_OF_BLOCKS when max_audios are held. */
DW_API dw_status dw_encode(dw_engine *engine, const float *mel, dw_audio **audio);

/* mels: float32 [num, n_mels, 2 * n_audio_ctx]; all or none are encoded. */
DW_API dw_status dw_encode_batch(dw_engine *engine, const float *mels, int32_t num,
                                 dw_audio **audios);

/* The same as dw_encode, and the encoder's output, float32 [n_audio_ctx, n_audio_state]. */
DW_API dw_status dw_encode_features(dw_engine *engine, const float *mel, dw_audio **audio,
                                    float *features);

/* NULL is allowed. */
DW_API void dw_audio_release(dw_audio *audio);

/* ---- decoder ---------------------------------------------------------------------------------- */

typedef enum {
    DW_END_TOKEN = 0,
    DW_MAX_TOKENS = 1,
    DW_REPETITION = 2,
    DW_STOPPED = 3
} dw_end_reason;

typedef struct {
    const int32_t *prompt;
    int32_t num_prompt;
    const int32_t *draft; /* tokens that are probably right: looked at in one pass with the prompt,
                             kept as far as greedy decoding chooses them */
    int32_t num_draft;    /* those beyond max_new_tokens are ignored */
    int32_t max_new_tokens;     /* num_prompt + max_new_tokens <= n_text_ctx */
    int32_t sot_index;          /* where in the prompt the start-of-transcript token is */
    int32_t stop_on_repetition; /* nonzero: end when the last tokens are one pattern over and over,
                                   by the rule of duplex_asr/asr/decoding.py */
    int32_t (*should_stop)(void *user); /* nonzero ends the decoding; asked at the start and
                                           after at most chunk_tokens tokens; may be NULL */
    void *user;
} dw_request;

typedef struct {
    int32_t *tokens;   /* room for max_new_tokens; without the end token */
    float *logprobs;   /* room for max_new_tokens + 1; among the tokens that are allowed; the end
                          token's is the last if it was reached */
    int32_t num_tokens;
    int32_t num_logprobs;
    int32_t num_drafted; /* tokens taken over from the draft */
    int32_t end_reason;  /* dw_end_reason */
    float no_speech_prob; /* 0 if options.no_speech is -1 */
} dw_result;

/* Take the most probable allowed token until the end token or a limit: the same as greedy_decode
 * of duplex_asr/asr/decoding.py. The sequence's blocks are back in the pool when this returns. */
DW_API dw_status dw_decode(dw_engine *engine, dw_audio *audio, const dw_request *request,
                           dw_result *result);

/* The same for several at once; statuses[i] is DW_OK or DW_OUT_OF_BLOCKS when DW_OK is returned.
 * An audio may appear more than once. Drafts must be empty. */
DW_API dw_status dw_decode_batch(dw_engine *engine, int32_t num, dw_audio *const *audios,
                                 const dw_request *requests, dw_result *results,
                                 dw_status *statuses);

/* ---- one sequence by hand: for comparing engines ----------------------------------------------- */

DW_API dw_status dw_sequence_open(dw_engine *engine, dw_audio *audio, dw_sequence **sequence);

/* Append tokens; logits after each, float32 [num, n_vocab], or NULL. At DW_OUT_OF_BLOCKS the
 * sequence is as before. */
DW_API dw_status dw_sequence_advance(dw_sequence *sequence, const int32_t *tokens, int32_t num,
                                     float *logits);

/* Forget all but the first num tokens and return their blocks. */
DW_API dw_status dw_sequence_truncate(dw_sequence *sequence, int32_t num);

/* NULL is allowed. */
DW_API void dw_sequence_close(dw_sequence *sequence);

#ifdef __cplusplus
}
#endif

#endif
