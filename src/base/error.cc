#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace flexgen {

void check_failed(const char* file, int line, const char* condition, const std::string& message) {
  std::fprintf(stderr, "flexgen: %s:%d: internal check failed: %s %s\nThis is a bug in flexgen.\n", file, line, condition, message.c_str());
  std::abort();
}

}  // namespace flexgen
