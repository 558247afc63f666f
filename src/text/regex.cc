#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include "base/error.h"

namespace flexgen {

struct Regex::State {
  pcre2_code* code = nullptr;
  std::string where;
  ~State() { pcre2_code_free(code); }
};

Regex::Regex(const std::string& pattern, const std::string& where) : state_(std::make_unique<State>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  state_->where = where;
  state_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                               &error, &offset, nullptr);
  if (!state_->code) {
    PCRE2_UCHAR message[128] = {};
    pcre2_get_error_message(error, message, sizeof message);
    fail_user("{}: the pattern '{}' is not understood: {} at {}", where, pattern, reinterpret_cast<char*>(message), offset);
  }
  pcre2_jit_compile(state_->code, PCRE2_JIT_COMPLETE);  // without a JIT the interpreter serves
}

Regex::~Regex() = default;

void Regex::for_each(std::string_view text, const std::function<void(size_t, size_t)>& match) const {
  struct Scope {
    pcre2_match_data* data;
    pcre2_match_context* context;
    ~Scope() {
      pcre2_match_data_free(data);
      pcre2_match_context_free(context);
    }
  } scope{pcre2_match_data_create_from_pattern(state_->code, nullptr), pcre2_match_context_create(nullptr)};
  pcre2_set_match_limit(scope.context, 10'000'000);
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(scope.data);
  for (size_t at = 0; at < text.size();) {
    int result = pcre2_match(state_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, PCRE2_NO_UTF_CHECK, scope.data,
                             scope.context);
    if (result == PCRE2_ERROR_NOMATCH) return;
    if (result < 0) fail_user("{}: matching the split pattern failed (PCRE2 error {})", state_->where, result);
    if (found[1] <= at && found[0] >= found[1]) {  // empty: step over one character
      ++at;
      while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
      continue;
    }
    match(found[0], found[1]);
    at = found[1];
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
