// Every kernel beside its plain reference on random input: one line each with the largest
// difference relative to the reference's root mean square.
//
//   test_kernels [small]: small leaves out the large sizes, for compute-sanitizer
#include "kernel_data.h"

using namespace dw;

namespace {

bool only_portable = false; // of the kernels that have a form for one GPU: first that, then the other

void test_multiply(dw_type type, int m, int n, int k, Epilogue epilogue, const char *name) {
    const Vector a = random(int64_t{m} * k), bias = random(n);
    Device<uint16_t> a_gpu(halves(a));
    Device<float> bias_gpu(bias);
    TestMatrix weight(type, n, k);
    Vector expected(int64_t{m} * n);
    const bool has_bias = epilogue != Epilogue::kFloat;
    plain::linear(expected.data(), a.data(), weight.values.data(), has_bias ? bias.data() : nullptr,
                  m, n, k, k);
    Product p;
    p.a = half_of(a_gpu), p.weight = weight.on_gpu(has_bias ? bias_gpu.data : nullptr);
    p.m = m, p.n = n, p.k = k, p.a_stride = k, p.out_stride = n, p.epilogue = epilogue;
    p.only_portable = only_portable;
    const bool is_half = epilogue == Epilogue::kHalf || epilogue == Epilogue::kHalfGelu;
    const Vector old = random(expected.size());
    Device<float> out_float(old);
    Device<uint16_t> out_half(expected.size());
    p.out = is_half ? static_cast<void *>(out_half.data) : out_float.data;
    if (epilogue == Epilogue::kHalfGelu) {
        plain::gelu(expected.data(), expected.size());
    }
    for (size_t i = 0; epilogue == Epilogue::kAddFloat && i < expected.size(); i++) {
        expected[i] += old[i];
    }
    multiply(p, type, nullptr);
    char line[128];
    std::snprintf(line, sizeof line, "multiply %s m %d n %d k %d", name, m, n, k);
    report(line, is_half ? floats(out_half.get()) : out_float.get(), expected,
           is_half || type != DW_FP16 ? 5e-3 : 1e-4); // widened weights are rounded to half
}

// A convolution as a product whose rows overlap, for a batch of two.
void test_convolution(int frames, int channels, int width) {
    const int batch = 2, rows = frames / 2;
    const Vector x = random(batch * (frames + 2ll) * channels), bias = random(width);
    const Vector positions = random(int64_t{rows} * width);
    TestMatrix weight(DW_FP16, width, 3 * channels);
    Vector expected(int64_t{batch} * rows * width);
    for (int b = 0; b < batch; b++) {
        float *y = &expected[int64_t{b} * rows * width];
        plain::linear(y, &x[b * (frames + 2ll) * channels], weight.values.data(), bias.data(), rows,
                      width, 3 * channels, 2ll * channels);
        plain::gelu(y, int64_t{rows} * width);
        for (int64_t i = 0; i < int64_t{rows} * width; i++) {
            y[i] += positions[i];
        }
    }
    Device<uint16_t> x_gpu(halves(x));
    Device<float> bias_gpu(bias), positions_gpu(positions), out(expected.size());
    Product p;
    p.a = half_of(x_gpu), p.weight = weight.on_gpu(bias_gpu.data), p.out = out.data;
    p.m = rows, p.n = width, p.k = 3 * channels, p.a_stride = 2ll * channels, p.out_stride = width;
    p.batch = batch, p.a_batch_stride = (frames + 2ll) * channels;
    p.out_batch_stride = int64_t{rows} * width;
    p.epilogue = Epilogue::kGeluPosition, p.positions = positions_gpu.data;
    p.only_portable = only_portable;
    multiply(p, DW_FP16, nullptr);
    report("multiply as a convolution, gelu and positions", out.get(), expected, 1e-4);
}

void test_cross_kv(int positions, int width, int layers) {
    const int heads = width / 64, n = 2 * layers * width;
    const Vector a = random(int64_t{positions} * width), bias = random(n);
    TestMatrix weight(DW_FP16, n, width);
    Vector flat(int64_t{positions} * n), expected(2 * flat.size(), 0.0f);
    plain::linear(flat.data(), a.data(), weight.values.data(), bias.data(), positions, n, width, width);
    for (int t = 0; t < positions; t++) { // [part, head, t, c], in slot 1
        for (int column = 0; column < n; column++) {
            const int64_t place = (int64_t{column / 64} * positions + t) * 64 + column % 64;
            expected[flat.size() + place] = flat[int64_t{t} * n + column];
        }
    }
    Device<uint16_t> a_gpu(halves(a)), out(std::vector<uint16_t>(expected.size(), 0));
    Device<float> bias_gpu(bias);
    Device<int32_t> slots(std::vector<int32_t>{1});
    Product p;
    p.a = half_of(a_gpu), p.weight = weight.on_gpu(bias_gpu.data), p.out = out.data;
    p.m = positions, p.n = n, p.k = width, p.a_stride = width;
    p.out_batch_stride = static_cast<int64_t>(flat.size());
    p.epilogue = Epilogue::kCrossKv, p.slots = slots.data;
    p.only_portable = only_portable;
    multiply(p, DW_FP16, nullptr);
    report(heads > 2 ? "multiply into cross keys and values" : "multiply into cross keys, small",
           floats(out.get()), expected, 5e-3);
}

void test_layer_norm(int rows, int width) {
    Vector x = random(int64_t{rows} * width, 3), weight = random(width), bias = random(width);
    for (float &value : x) {
        value += 5; // a mean far from 0
    }
    Vector expected(x.size());
    plain::layer_norm(expected.data(), x.data(), weight.data(), bias.data(), rows, width);
    Device<float> x_gpu(x), weight_gpu(weight), bias_gpu(bias);
    Device<uint16_t> out(x.size());
    layer_norm(half_of(out), x_gpu.data, x_gpu.data, weight_gpu.data, bias_gpu.data, rows, width,
               only_portable, nullptr);
    report("layer_norm to half", floats(out.get()), expected, 2e-3);
    report("layer_norm in place", x_gpu.get(), expected, 1e-5);
}

void test_turn_mel(int n_mels, int frames) {
    const Vector mel = random(2ll * n_mels * frames);
    Vector expected(2ll * (frames + 2) * n_mels, 0.0f);
    for (int b = 0; b < 2; b++) {
        for (int bin = 0; bin < n_mels; bin++) {
            for (int frame = 0; frame < frames; frame++) {
                expected[(b * (frames + 2ll) + frame + 1) * n_mels + bin] =
                    mel[(b * n_mels + bin) * static_cast<int64_t>(frames) + frame];
            }
        }
    }
    Device<float> mel_gpu(mel);
    Device<uint16_t> out(expected.size());
    turn_mel(half_of(out), mel_gpu.data, 2, n_mels, frames, only_portable, nullptr);
    clear_padding(half_of(out), 2, frames + 2, n_mels, only_portable, nullptr);
    report("turn_mel and clear_padding", floats(out.get()), expected, 1e-6);
}

void test_encoder_attention(int positions, int heads) {
    const int width = heads * 64, batch = 2;
    const Vector qkv = random(int64_t{batch} * positions * 3 * width, 3);
    Vector expected(int64_t{batch} * positions * width);
    for (int b = 0; b < batch; b++) {
        for (int head = 0; head < heads; head++) {
            const float *from = &qkv[int64_t{b} * positions * 3 * width + head * 64];
            Vector out(int64_t{positions} * 3 * width);
            plain::attend(out.data(), from, from + width, from + 2 * width, positions, positions,
                          3 * width, 3 * width, false);
            for (int t = 0; t < positions; t++) {
                std::memcpy(&expected[(int64_t{b} * positions + t) * width + head * 64],
                            &out[int64_t{t} * 3 * width], 256);
            }
        }
    }
    Device<uint16_t> qkv_gpu(halves(qkv)), out(expected.size());
    encoder_attention(half_of(out), half_of(qkv_gpu), batch, positions, heads, only_portable,
                      nullptr);
    char line[64];
    std::snprintf(line, sizeof line, "encoder_attention %d positions, %d heads", positions, heads);
    report(line, floats(out.get()), expected, 1e-2);
}

// Rows of two sequences whose blocks lie in disorder, against contiguous keys and values.
void test_rows(int heads, int num_keys) {
    const int width = heads * 64, block_tokens = 8, blocks = 12, lengths[] = {37, 5};
    const int num = 3, table_width = 6;
    const std::vector<int32_t> table = {7, 2, 9, 0, 11, -1}, other = {4, -1, -1, -1, -1, -1};
    std::vector<int32_t> ints = {3, 8, 5, 36, 20, 4, 0, 0, 1, 1, 0, 0}; // tokens .. is_first
    for (const auto &each : {table, table, other}) {
        ints.insert(ints.end(), each.begin(), each.end());
    }
    Device<int32_t> gpu(ints);
    const Rows rows{num, table_width, gpu.data, gpu.data + num, gpu.data + 2 * num,
                    gpu.data + 3 * num, gpu.data + 4 * num};
    const Vector query = random(int64_t{num} * width, 3);
    Device<uint16_t> query_gpu(halves(query)), out(query.size());

    Vector keys[2], values[2], pool_keys(int64_t{blocks} * block_tokens * width);
    Vector pool_values(pool_keys.size());
    for (int sequence = 0; sequence < 2; sequence++) {
        keys[sequence] = random(int64_t{lengths[sequence]} * width);
        values[sequence] = random(int64_t{lengths[sequence]} * width);
        for (int t = 0; t < lengths[sequence]; t++) {
            const int block = (sequence ? other : table)[t / block_tokens];
            const int64_t slot = block * block_tokens + t % block_tokens;
            std::memcpy(&pool_keys[slot * width], &keys[sequence][t * width], width * 4);
            std::memcpy(&pool_values[slot * width], &values[sequence][t * width], width * 4);
        }
    }
    Device<uint16_t> keys_gpu(halves(pool_keys)), values_gpu(halves(pool_values));
    Vector expected(query.size());
    for (int row = 0; row < num; row++) {
        const int sequence = row == 2, seen = ints[num + row] + 1;
        for (int head = 0; head < width; head += 64) {
            plain::attend(&expected[row * width + head], &query[row * width + head],
                          &keys[sequence][head], &values[sequence][head], 1, seen, width, width, true);
        }
    }
    self_attention(half_of(out), half_of(query_gpu), rows,
                   {half_of(keys_gpu), half_of(values_gpu), block_tokens}, heads, nullptr);
    report("self_attention over blocks against contiguous", floats(out.get()), expected, 5e-3);

    const Vector audio = random(2ll * 2 * heads * num_keys * 64); // [slot, k/v, head, key, 64]
    Device<uint16_t> audio_gpu(halves(audio));
    const int64_t slot_size = 2ll * heads * num_keys * 64;
    for (int row = 0; row < num; row++) {
        for (int head = 0; head < heads; head++) {
            const float *k = &audio[ints[2 * num + row] * slot_size + int64_t{head} * num_keys * 64];
            plain::attend(&expected[row * width + head * 64], &query[row * width + head * 64], k,
                          k + int64_t{heads} * num_keys * 64, 1, num_keys, 64, 64, false);
        }
    }
    cross_attention(half_of(out), half_of(query_gpu), rows, half_of(audio_gpu), slot_size, heads,
                    num_keys, nullptr);
    report("cross_attention", floats(out.get()), expected, 5e-3);

    for (const dw_type type : {DW_FP16, DW_INT8, DW_INT4}) {
        TestMatrix embedding(type, 10, width);
        const Vector positional = random(40ll * width);
        Device<float> positional_gpu(positional), x(query.size());
        for (int row = 0; row < num; row++) {
            for (int i = 0; i < width; i++) {
                expected[row * width + i] = embedding.values[ints[row] * width + i] +
                                            positional[ints[num + row] * width + i];
            }
        }
        embed(x.data, rows, embedding.on_gpu(nullptr), type, positional_gpu.data, width, nullptr);
        report("embed", x.get(), expected, 1e-5);
    }

    const int n_vocab = 1003;
    const Vector logits = random(int64_t{num} * n_vocab, 8);
    std::vector<uint8_t> mask(n_vocab, 0);
    std::vector<int32_t> always, at_first;
    for (int token = 0; token < n_vocab; token += 3) {
        mask[token] = token % 2 ? 1 : 2;
        (token % 2 ? always : at_first).push_back(token);
    }
    at_first.insert(at_first.end(), always.begin(), always.end());
    Device<float> logits_gpu(logits);
    Device<uint8_t> mask_gpu(mask);
    Device<DeviceAnswer> answers(num);
    choose(answers.data, logits_gpu.data, rows, mask_gpu.data, 17, n_vocab, nullptr);
    Vector got, want;
    for (int row = 0; row < num; row++) {
        const plain::Choice choice = plain::choose(&logits[row * n_vocab], n_vocab,
                                                   ints[3 * num + row] ? at_first : always, 17);
        const DeviceAnswer answer = answers.get()[row];
        got.insert(got.end(), {float(answer.token), answer.logprob, answer.no_speech_prob * 1e3f});
        want.insert(want.end(), {float(choice.token), choice.logprob, choice.no_speech_prob * 1e3f});
    }
    report("choose", got, want, 1e-5);
}

// What exists twice where the GPU has wgmma, in every shape: whole tiles, rests of tiles, less than
// one, and parts of k or of the keys that have nothing.
void test_encoder(bool is_small) {
    std::printf(only_portable ? "-- portable\n" : "-- as this GPU can\n");
    test_multiply(DW_FP16, 70, 96, 48, Epilogue::kHalf, "fp16 to half");
    test_multiply(DW_FP16, 130, 136, 240, Epilogue::kAddFloat, "fp16 added");
    test_multiply(DW_FP16, 130, 136, 1048, Epilogue::kAddFloat, "fp16 added");
    test_multiply(DW_FP16, 193, 648, 72, Epilogue::kHalfGelu, "fp16, gelu");
    test_multiply(DW_FP16, 70, 640, 8, Epilogue::kHalf, "fp16 to half");
    test_multiply(DW_FP16, 193, 1032, 72, Epilogue::kHalfGelu, "fp16, gelu");
    test_multiply(DW_FP16, 65, 2056, 8, Epilogue::kHalf, "fp16 to half");
    test_multiply(DW_FP16, 193, 2312, 200, Epilogue::kHalf, "fp16 to half");
    test_multiply(DW_FP16, 200, 3080, 136, Epilogue::kAddFloat, "fp16 added");
    test_convolution(60, 80, 64);
    test_convolution(140, 80, 72);
    test_cross_kv(33, 128, 2);
    test_cross_kv(97, 128, 2);
    test_layer_norm(7, 64);
    test_turn_mel(80, 70);
    for (const int positions : {1, 60, 64, 65, 70, 128, 129, 200, 300}) {
        test_encoder_attention(positions, 2);
        test_encoder_attention(positions, 34); // more blocks than multiprocessors
    }
    if (is_small) {
        return;
    }
    test_multiply(DW_FP16, 1500, 1536, 512, Epilogue::kHalf, "fp16 to half");
    test_multiply(DW_FP16, 1500, 2048, 512, Epilogue::kHalfGelu, "fp16, gelu");
    test_multiply(DW_FP16, 1500, 512, 2048, Epilogue::kAddFloat, "fp16 added");
    test_multiply(DW_FP16, 1500, 512, 512, Epilogue::kAddFloat, "fp16 added");
    test_multiply(DW_FP16, 1500, 2304, 768, Epilogue::kHalf, "fp16 to half");
    test_multiply(DW_FP16, 1500, 768, 3072, Epilogue::kAddFloat, "fp16 added");
    test_multiply(DW_FP16, 3001, 520, 64, Epilogue::kAddFloat, "fp16 added");
    test_multiply(DW_FP16, 3000, 512, 240, Epilogue::kHalfGelu, "fp16, gelu");
    test_convolution(3000, 512, 512);
    test_cross_kv(1500, 384, 2);
    test_cross_kv(1500, 512, 4);
    test_layer_norm(1500, 1280);
    test_turn_mel(128, 3000);
    test_encoder_attention(1500, 3);
    test_encoder_attention(1500, 8);
    test_encoder_attention(1500, 12);
}

} // namespace

int main(int count, char **) {
    const bool is_small = count > 1;
    for (const bool portable : {false, true}) {
        only_portable = portable;
        test_encoder(is_small);
    }
    test_multiply(DW_FP16, 5, 301, 128, Epilogue::kFloat, "fp16 to float");
    for (const dw_type type : {DW_INT8, DW_INT4}) {
        const char *name = type == DW_INT8 ? "int8" : "int4";
        test_multiply(type, 3, 301, 192, Epilogue::kFloat, name);
        test_multiply(type, 66, 192, 768, Epilogue::kHalfGelu, name);
        test_multiply(type, 1, 128, 64, Epilogue::kAddFloat, name);
    }
    test_rows(2, 70);
    if (!is_small) {
        test_multiply(DW_FP16, 8, 51865, 384, Epilogue::kFloat, "fp16 to float");
        test_rows(12, 1500);
    }
    std::printf(failures ? "%d FAILURES\n" : "all kernels agree\n", failures);
    return failures != 0;
}
