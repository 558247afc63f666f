#include "io/aligned_buffer.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "base/units.h"

namespace flexgen {

AlignedBuffer::AlignedBuffer(int64_t bytes) : bytes_(round_up(std::max<int64_t>(bytes, 1), kDirectAlignment)) {
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(static_cast<size_t>(kDirectAlignment), static_cast<size_t>(bytes_))));
  if (!data_) throw std::bad_alloc();
}

void AlignedBuffer::Free::operator()(std::byte* data) const { std::free(data); }

}  // namespace flexgen
