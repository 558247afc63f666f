#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <ctime>

#include "base/error.h"
#include "text/oniguruma.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

std::string printable_pattern(const std::string& pattern) {
  return pattern.size() <= 200 ? pattern : fmt::format("{}...", std::string_view(pattern).substr(0, 200));
}

}  // namespace

struct Regex::State {
  pcre2_code* code = nullptr;
  pcre2_code* exact = nullptr;  ///< for texts with kFormerSpace; null: it makes no difference
  std::string where, pattern;
  ~State() {
    pcre2_code_free(code);
    pcre2_code_free(exact);
  }
};

namespace {

constexpr std::string_view kFormerSpace = "\u180e";  // which PCRE2's \s takes

pcre2_code* compile(const std::string& translated, const std::string& pattern, const std::string& where) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (!code) {
    PCRE2_UCHAR message[128] = {};
    pcre2_get_error_message(error, message, sizeof message);
    fail_user("{}: the pattern '{}' is not understood: {} at {}", where, printable_pattern(pattern), reinterpret_cast<char*>(message), offset);
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without a JIT the interpreter serves
  return code;
}

}  // namespace

Regex::Regex(const std::string& pattern, const std::string& where) : state_(std::make_unique<State>()) {
  state_->where = where;
  state_->pattern = pattern;
  const std::string translated = pcre_of_oniguruma(pattern, where), exact = pcre_of_oniguruma(pattern, where, true);
  state_->code = compile(translated, pattern, where);
  if (exact != translated) state_->exact = compile(exact, pattern, where);
}

Regex::~Regex() = default;

namespace {

/// What one pass over a text may take.
class TimeLimit {
 public:
  explicit TimeLimit(size_t bytes) : limit_s_(Regex::kBaseTimeS + Regex::kTimePerByteS * static_cast<double>(bytes)) {}
  /// A look at the clock is dearer than a match, so most calls that found one at once go without.
  bool over(bool call_was_quick) {
    if (call_was_quick && ++calls_ % 64 != 0) return false;
    const double now = now_s();
    if (start_s_ < 0) start_s_ = now;
    return now - start_s_ > limit_s_;
  }

 private:
  static double now_s() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }
  double limit_s_, start_s_ = -1;
  uint64_t calls_ = 0;
};

struct MatchScope {
  pcre2_match_data* data;
  pcre2_match_context* context;
  ~MatchScope() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
};

size_t next_character(std::string_view text, size_t at) {
  ++at;
  while (at < text.size() && is_continuation(text[at])) ++at;
  return at;
}

}  // namespace

void Regex::for_each(std::string_view text, const std::function<void(size_t, size_t)>& match) const {
  // A call tries this many places, so that a pattern that reads far at each of them comes back to look at the time.
  constexpr size_t kPlacesPerCall = 256;
  const pcre2_code* code = state_->exact && text.find(kFormerSpace) != std::string_view::npos ? state_->exact : state_->code;
  MatchScope scope{pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_context_create(nullptr)};
  // Steps in proportion: many short pieces must not take long together either.
  pcre2_set_match_limit(scope.context, static_cast<uint32_t>(std::min<size_t>(2000 + 1000 * text.size(), 1u << 30)));
  pcre2_set_heap_limit(scope.context, 64 * 1024);  // KiB
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(scope.data);
  TimeLimit limit(text.size());
  size_t last_end = std::string_view::npos;
  bool quick = true;
  for (size_t at = 0; at <= text.size();) {
    if (limit.over(quick))
      fail_user("{}: the pattern '{}' takes too long on a text of {} bytes", state_->where, printable_pattern(state_->pattern), text.size());
    const size_t last_place = std::min(text.size(), at + kPlacesPerCall);
    pcre2_set_offset_limit(scope.context, last_place);
    auto search = [&](uint32_t options) {
      return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, options | PCRE2_NO_UTF_CHECK, scope.data, scope.context);
    };
    int result = search(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = search(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) {
      at = next_character(text, last_place);
      quick = false;
      continue;
    }
    if (result < 0)
      fail_user("{}: matching the pattern '{}' takes too many steps on a text of {} bytes (PCRE2 error {})", state_->where, printable_pattern(state_->pattern),
                text.size(), result);
    const size_t begin = found[0], end = found[1];
    if (begin < at || begin > end)  // \K inside of a look around
      fail_user("{}: the pattern '{}' matches backwards; that is not supported", state_->where, printable_pattern(state_->pattern));
    quick = begin - at < 16;
    if (begin == end) {
      at = next_character(text, begin);
      if (last_end == begin) continue;
    } else {
      at = end;
    }
    last_end = end;
    match(begin, end);
  }
}

std::string escape_regex(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}-/#&~ \t\n").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace flexgen
