#include "block_pool.h"

namespace dw {

BlockPool::BlockPool(int pool_tokens, int block_tokens)
    : block_tokens_(block_tokens), num_total_(pool_tokens / block_tokens) {
    for (int block = num_total_ - 1; block >= 0; block--) {
        free_.push_back(block);
    }
}

bool BlockPool::grow(std::vector<int32_t> &table, int num_tokens) {
    const int missing = blocks_for(num_tokens) - static_cast<int>(table.size());
    if (missing > num_free()) {
        return false;
    }
    for (int i = 0; i < missing; i++) {
        table.push_back(free_.back());
        free_.pop_back();
    }
    return true;
}

void BlockPool::shrink(std::vector<int32_t> &table, int num_tokens) {
    while (static_cast<int>(table.size()) > blocks_for(num_tokens)) {
        free_.push_back(table.back());
        table.pop_back();
    }
}

} // namespace dw
