#include "base/last_words.h"

#include <fmt/format.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <new>
#include <system_error>

#include "base/error.h"
#include "base/report.h"
#include "base/units.h"

namespace flexgen {
namespace {

[[noreturn]] void end() noexcept {
  if (const std::exception_ptr error = std::current_exception()) {
    try {
      std::rethrow_exception(error);
    } catch (const Error& known) {
      std::fprintf(stderr, "flexgen: %s\n", known.what());
      _exit(1);
    } catch (const std::bad_alloc& known) {
      std::fprintf(stderr, "flexgen: %s\n", sentence_of(known).c_str());
      _exit(1);
    } catch (const std::system_error& known) {
      std::fprintf(stderr, "flexgen: %s\n", sentence_of(known).c_str());
      _exit(1);
    } catch (const std::exception& other) {
      std::fprintf(stderr, "flexgen: %s\nThis is a bug in flexgen.\n", other.what());
    } catch (...) {
    }
  }
  std::abort();
}

}  // namespace

std::string sentence_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    rlimit limit{};
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
      return fmt::format(
          "out of memory: the address space of this process is limited to {} (ulimit -v); raise that limit (code, libraries and stacks take some hundred MiB of it "
          "beside --cpu-memory), or give a lower --cpu-memory and fewer --threads; finished answers are kept",
          format_bytes(static_cast<int64_t>(limit.rlim_cur)));
    return "out of memory: the system gives this process no more; lower --cpu-memory, or end other programs; finished answers are kept";
  }
  if (const auto* failed = dynamic_cast<const std::system_error*>(&error); failed != nullptr && failed->code() == std::errc::resource_unavailable_try_again)
    return fmt::format("{}: no more threads or processes are allowed (ulimit -u, pids.max of the cgroup)", error.what());
  return error.what();
}

void write_sentence_of(const std::exception& error) { write_note(fmt::format("flexgen: {}\n", sentence_of(error))); }

void end_with_a_sentence() { std::set_terminate(end); }

void save_address_space() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) mallopt(M_ARENA_MAX, 1);
}

}  // namespace flexgen
