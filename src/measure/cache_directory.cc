#include "measure/cache_directory.h"

#include <cstdlib>
#include <filesystem>

namespace flexgen {

std::string cache_directory(const std::function<const char*(const char*)>& variable) {
  namespace fs = std::filesystem;
  auto path_of = [&](const char* name) {
    const char* text = variable(name);
    return fs::path(text ? text : "");
  };
  if (const fs::path own = path_of("FLEXGEN_CACHE_DIR"); !own.empty()) {
    std::error_code gone;  // the working directory: what is to be kept there is told to fail
    const fs::path whole = fs::absolute(own, gone);
    return gone ? own.string() : whole.string();
  }
  if (const fs::path caches = path_of("XDG_CACHE_HOME"); caches.is_absolute()) return (caches / "flexgen").string();
  if (const fs::path home = path_of("HOME"); home.is_absolute()) return (home / ".cache" / "flexgen").string();
  return "";
}

std::string cache_directory() {
  return cache_directory([](const char* name) -> const char* { return std::getenv(name); });
}

}  // namespace flexgen
